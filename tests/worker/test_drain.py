"""The drain loop on a real database and a real engine; a failure that cannot be caused is raised before a step."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import Engine, select, text, update
from sqlalchemy.engine import URL, make_url

import ipt
from app.db.ids import new_id
from app.db.models import Adaptation, AdaptationEvent, TaskVersion, Tenant, Worker
from app.db.session import make_engine, transaction
from app.logs import JsonFormatter
from app.queue import lifecycle
from app.settings import DEFAULT_TENANT, Settings
from ipt.errors import SubspaceError
from tests.support.drain import STEPS, BeforeStep, WatchedModel, run, undisturbed, vector_of
from tests.support.jobs import EXAMPLES, Enqueue
from worker.drain import Drainer
from worker.failures import DeviceLostError
from worker.model import LazyModel

pytestmark = pytest.mark.usefixtures("keep_tuned")

Row = Callable[[str], Adaptation]
Events = Callable[[str], list[AdaptationEvent]]


@pytest.fixture
def drainer(engine: Engine, settings: Settings) -> Callable[..., Drainer]:
    """A drainer whose every engine step is announced to the test."""

    def drainer(before_step: BeforeStep = lambda _: None, **changes: Any) -> Drainer:
        changed = settings.model_copy(update=changes)
        return Drainer(engine, WatchedModel(changed, before_step), changed, new_id("worker"))

    return drainer


def test_everything_queued_is_tuned_in_one_batch(
    drainer: Callable[..., Drainer], engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, events: Events
) -> None:
    queued = [enqueue(hyperparameters=STEPS | {"seed": seed}) for seed in range(3)]
    together: set[int] = set()
    run(drainer(lambda tuning: together.add(len(tuning.job_ids))))
    assert 3 in together
    for seed, adaptation_id in enumerate(queued):
        done = row(adaptation_id)
        assert done.metrics is not None
        assert (done.state, done.attempt, done.step) == ("succeeded", 1, done.metrics["steps_run"])
        assert 0 < done.step <= done.steps == 24
        assert 0.0 <= done.metrics["score"] <= 1.0
        expected = undisturbed(settings, STEPS | {"seed": seed})
        np.testing.assert_allclose(vector_of(engine, done), expected, rtol=1e-4, atol=1e-5)
        kinds = [event.type for event in events(adaptation_id)]
        assert kinds[:2] == ["queued", "running"]
        assert kinds[-1] == "succeeded"
        steps = [event.data["step"] for event in events(adaptation_id) if event.type == "progress"]
        assert steps == sorted(set(steps))
        assert 1 <= len(steps) <= 24


@pytest.mark.parametrize(("steps", "moved"), [(0, False), (24, True)])
def test_a_vector_that_never_moved_is_told_apart(
    steps: int, moved: bool, drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    tuned = row(enqueue(hyperparameters=STEPS | {"steps": steps}))
    run(drainer())
    with transaction(engine) as session:
        version = session.get_one(TaskVersion, (tuned.task_id, tuned.task_version))
    assert (version.start is None) == moved


def test_a_worker_forgets_who_has_nothing_left(
    drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue
) -> None:
    enqueue(hyperparameters=STEPS)
    run(drainer())
    run(drainer())  # which looks as soon as it starts
    with transaction(engine) as session:
        assert session.get_one(Tenant, DEFAULT_TENANT).waiting_since is None


def test_a_job_joins_a_running_batch(drainer: Callable[..., Drainer], enqueue: Enqueue, row: Row) -> None:
    queued = [enqueue(hyperparameters=STEPS | {"steps": 200})]
    seen: list[tuple[str, ...]] = []

    def before_step(engine: ipt.TuningEngine) -> None:
        seen.append(engine.job_ids)
        if len(seen) == 5:
            queued.append(enqueue(hyperparameters=STEPS))

    run(drainer(before_step, poll_seconds=0.001))
    assert tuple(queued) in seen
    assert [row(adaptation_id).state for adaptation_id in queued] == ["succeeded", "succeeded"]


def test_a_worker_says_that_it_is_there_and_when_it_ends(
    drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue
) -> None:
    enqueue(hyperparameters=STEPS)
    subspace_ids: set[str | None] = set()
    most_jobs = 0

    def look(_: ipt.TuningEngine) -> None:
        nonlocal most_jobs
        with transaction(engine) as session:
            [worker] = session.scalars(select(Worker))
            subspace_ids.add(worker.subspace_id)
            most_jobs = max(most_jobs, worker.jobs)

    stop = threading.Event()
    polling = drainer(look, heartbeat_seconds=0.001)
    thread = threading.Thread(target=polling.poll, args=(stop,), daemon=True)
    thread.start()
    with transaction(engine) as session:
        loaded = select(Adaptation.subspace_id).where(Adaptation.state == "succeeded")
        deadline = time.monotonic() + 60
        while (subspace_id := session.scalar(loaded)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    stop.set()
    thread.join(60)
    assert (subspace_ids, most_jobs) == ({subspace_id}, 1)
    with transaction(engine) as session:
        assert session.scalars(select(Worker)).all() == []


def test_a_running_job_is_cancelled_within_a_step_and_its_neighbour_goes_on(
    drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue, row: Row, events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("worker.leases._CHECK_SECONDS", 0.0)  # a tiny model's steps are shorter than that
    cancelled, neighbour = enqueue(hyperparameters=STEPS | {"steps": 2000}), enqueue(hyperparameters=STEPS)
    batches: list[tuple[str, ...]] = []

    def before_step(tuning: ipt.TuningEngine) -> None:
        batches.append(tuning.job_ids)
        if len(batches) == 3:
            with transaction(engine) as session:
                lifecycle.request_cancel(session, DEFAULT_TENANT, cancelled)

    run(drainer(before_step))
    assert row(cancelled).state == "cancelled"
    assert row(neighbour).state == "succeeded"
    assert events(cancelled)[-1].type == "cancelled"
    # The third step had begun.
    assert [cancelled in batch for batch in batches] == [True] * 3 + [False] * (len(batches) - 3)
    assert len(batches) > 3


def test_a_step_that_hangs_loses_its_lease_and_another_worker_goes_on(
    drainer: Callable[..., Drainer], enqueue: Enqueue, row: Row, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    steps: list[int] = []
    hangs, released = threading.Event(), threading.Event()

    def hang(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 3:
            hangs.set()
            assert released.wait(60)

    impatient = {"lease_seconds": 1.0, "reap_seconds": 0.1}
    one = threading.Thread(target=run, args=(drainer(hang, **impatient),), daemon=True)
    one.start()
    assert hangs.wait(60)
    other = drainer(**impatient)
    deadline = time.monotonic() + 60
    while row(adaptation_id).state != "succeeded":
        assert time.monotonic() < deadline, "the lease of a step that hangs does not end"
        run(other)
        time.sleep(0.1)
    released.set()
    one.join(60)
    assert not one.is_alive()
    assert row(adaptation_id).attempt == 2
    kinds = [event.type for event in events(adaptation_id) if event.type != "progress"]
    assert kinds == ["queued", "running", "requeued", "running", "succeeded"]
    assert any(record.getMessage().startswith("lease_lost") for record in caplog.records)


def test_a_lost_lease_discards_the_work(
    drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    lost = enqueue(hyperparameters=STEPS)
    steps: list[int] = []

    def before_step(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 3:
            with transaction(engine) as session:
                session.execute(
                    update(Adaptation).where(Adaptation.id == lost).values(lease_token="0" * 32, worker_id="other")
                )

    run(drainer(before_step))
    assert (row(lost).state, row(lost).worker_id) == ("running", "other")
    with transaction(engine) as session:
        assert session.get(TaskVersion, (row(lost).task_id, 1)) is None


def test_what_the_core_refuses_fails_at_once_and_says_why(
    drainer: Callable[..., Drainer], enqueue: Enqueue, row: Row
) -> None:
    one_label = enqueue(examples=[{"input": f"text {i}", "output": "same"} for i in range(4)])
    text = enqueue(kind="text2text", hyperparameters=STEPS)
    wrong_value = enqueue(hyperparameters={"steps": -1})
    wrong_name = enqueue(hyperparameters={"temperature": 1})
    good = enqueue(hyperparameters=STEPS)
    run(drainer(max_attempts=1))
    for adaptation_id, param, code in (
        (one_label, "examples", "invalid_dataset"),
        (text, "kind", "invalid_dataset"),
        (wrong_value, "steps", "adaptation_refused"),
        (wrong_name, None, "internal_error"),
    ):
        failed = row(adaptation_id)
        assert failed.error is not None
        assert (failed.state, failed.error["param"], failed.error["code"]) == ("failed", param, code)
        assert set(failed.error) == {"message", "type", "param", "code"}
    assert row(good).state == "succeeded"


def test_a_poison_job_fails_alone(drainer: Callable[..., Drainer], enqueue: Enqueue, row: Row, events: Events) -> None:
    neighbours = [enqueue(hyperparameters=STEPS), enqueue(hyperparameters=STEPS)]
    poison = enqueue(hyperparameters=STEPS)
    batches: list[tuple[str, ...]] = []

    def before_step(engine: ipt.TuningEngine) -> None:
        batches.append(engine.job_ids)
        if poison in engine.job_ids and len(batches) > 3:
            raise ValueError("quotes the tenant's text")

    run(drainer(before_step))
    assert [row(adaptation_id).state for adaptation_id in neighbours] == ["succeeded", "succeeded"]
    assert [row(adaptation_id).attempt for adaptation_id in neighbours] == [2, 2]
    failed = row(poison)
    assert failed.error is not None
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 3, "internal_error")
    assert "quotes" not in str(failed.error)
    first_failure = next(index for index, batch in enumerate(batches[3:], 3) if poison in batch)
    assert all(len(batch) == 1 for batch in batches[first_failure + 1 :])
    assert [event.type for event in events(poison)].count("requeued") == 2


@pytest.mark.parametrize("lost", [True, False], ids=["kills its worker", "fails"])
def test_a_poison_job_with_one_attempt_fails_alone(
    drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue, row: Row, lost: bool
) -> None:
    poison, *neighbours = (enqueue(hyperparameters=STEPS) for _ in range(3))
    batches: list[tuple[str, ...]] = []

    def before_step(tuning: ipt.TuningEngine) -> None:
        batches.append(tuning.job_ids)
        if poison in tuning.job_ids:
            raise SystemExit if lost else ValueError

    if lost:
        with pytest.raises(SystemExit):  # nobody writes anything down
            run(drainer(before_step, max_attempts=1))
        with transaction(engine) as session:
            session.execute(text("UPDATE adaptations SET lease_until = now() WHERE state = 'running'"))
    run(drainer(before_step, max_attempts=1))
    assert all(len(batch) == 1 for batch in batches)
    assert [(row(one).state, row(one).attempt) for one in (poison, *neighbours)] == [
        ("failed", 1),
        ("succeeded", 1),
        ("succeeded", 1),
    ]


def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does(
    drainer: Callable[..., Drainer], enqueue: Enqueue, row: Row
) -> None:
    queued = [enqueue(hyperparameters=STEPS) for _ in range(5)]

    def before_step(engine: ipt.TuningEngine) -> None:
        if len(engine.job_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    run(drainer(before_step))
    assert [(row(one).state, row(one).attempt) for one in queued] == [("succeeded", 1)] * 5


def test_a_job_that_does_not_fit_into_memory_alone_fails_and_says_so(
    drainer: Callable[..., Drainer], enqueue: Enqueue, row: Row
) -> None:
    too_large = enqueue(hyperparameters=STEPS)

    def before_step(_: ipt.TuningEngine) -> None:
        torch.empty(10**15)  # the allocator's own error

    run(drainer(before_step, max_attempts=2))
    failed = row(too_large)
    assert failed.error is not None
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 2, "out_of_memory")


def test_a_lost_device_gives_its_jobs_back_and_ends_the_worker(
    drainer: Callable[..., Drainer], enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)

    def before_step(_: ipt.TuningEngine) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceLostError):
        run(drainer(before_step))
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("queued", 1)


def test_a_worker_told_to_stop_hands_back_and_the_next_one_goes_on_exactly(
    drainer: Callable[..., Drainer], engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    stop = threading.Event()

    def before_step(tuning: ipt.TuningEngine) -> None:
        if row(adaptation_id).checkpoint is not None:
            stop.set()

    run(drainer(before_step), stop)
    back = row(adaptation_id)
    assert (back.state, back.attempt, back.lease_token) == ("queued", 0, None)
    assert back.checkpoint is not None
    assert 0 < back.step < 24
    run(drainer())
    done = row(adaptation_id)
    assert (done.state, done.attempt) == ("succeeded", 1)
    np.testing.assert_allclose(vector_of(engine, done), undisturbed(settings, STEPS), rtol=1e-4, atol=1e-5)
    running = [event.data for event in events(adaptation_id) if event.type == "running"]
    assert [data["step"] for data in running] == [0, back.step]


def test_a_checkpoint_that_cannot_be_read_starts_the_job_over(
    drainer: Callable[..., Drainer], engine: Engine, settings: Settings, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS, checkpoint=b"not a checkpoint", step=10, steps=24)
    run(drainer())
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
    np.testing.assert_allclose(
        vector_of(engine, row(adaptation_id)), undisturbed(settings, STEPS), rtol=1e-4, atol=1e-5
    )


def test_a_database_that_is_gone_in_mid_run_stops_nothing(
    drainer: Callable[..., Drainer],
    engine: Engine,
    postgres_url: URL,
    database_url: str,
    enqueue: Enqueue,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    name = make_url(database_url).database
    server = make_engine(postgres_url.render_as_string(hide_password=False))
    steps: list[int] = []

    def before_step(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 4:
            with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
                connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
                )
            back.start()

    def come_back() -> None:
        with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))

    back = threading.Timer(1.5, come_back)
    run(drainer(before_step))
    server.dispose()
    assert row(adaptation_id).state == "succeeded"
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("database_unavailable") for message in messages)


def test_a_database_that_takes_no_writes_for_a_while_fails_nothing(
    drainer: Callable[..., Drainer], postgres_url: URL, database_url: str, enqueue: Enqueue, row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    adaptation_id = enqueue(hyperparameters=STEPS)
    name = make_url(database_url).database
    server = make_engine(postgres_url.render_as_string(hide_password=False))
    steps: list[int] = []

    def read_only(value: str) -> None:
        """For all connections from now on, of which there are only new ones."""
        with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )

    def before_step(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 4:
            read_only("on")
            back.start()

    back = threading.Timer(1.5, read_only, ["off"])
    run(drainer(before_step))
    server.dispose()
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
    assert any(record.getMessage().startswith("database_unavailable") for record in caplog.records)


def test_a_full_disk_keeps_a_result_until_there_is_room_for_it(
    drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    with transaction(engine) as session:
        session.execute(
            text(
                "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
            )
        )
        session.execute(text("CREATE TRIGGER full_disk BEFORE INSERT ON task_versions EXECUTE FUNCTION disk_full()"))

    def make_room() -> None:
        until = time.monotonic() + 60
        while not any(record.getMessage().startswith("database_unavailable") for record in caplog.records):
            assert time.monotonic() < until
            time.sleep(0.05)
        with transaction(engine) as session:
            session.execute(text("DROP TRIGGER full_disk ON task_versions"))

    room = threading.Thread(target=make_room, daemon=True)
    room.start()
    run(drainer())
    room.join(60)
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
    with transaction(engine) as session:
        assert session.get(TaskVersion, (row(adaptation_id).task_id, 1)) is not None


def test_an_outcome_that_the_database_refuses_fails_its_adaptation_alone(
    drainer: Callable[..., Drainer], engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    examples = [{"input": example["input"], "output": example["output"] + "\x7f"} for example in EXAMPLES]
    refused, good = enqueue(examples=examples, hyperparameters=STEPS), enqueue(hyperparameters=STEPS)
    with transaction(engine) as session:
        # A check that only this outcome violates stands for a result that the columns cannot hold.
        session.execute(
            text("ALTER TABLE task_versions ADD CONSTRAINT plain CHECK (position(chr(127) in labels::text) = 0)")
        )
    run(drainer())
    failed = row(refused)
    assert failed.error is not None
    assert (failed.state, failed.error["code"]) == ("failed", "internal_error")
    assert row(good).state == "succeeded"


def test_a_subspace_that_the_database_refuses_ends_the_worker_and_keeps_the_queue(
    engine: Engine, settings: Settings, enqueue: Enqueue, row: Row
) -> None:
    model = LazyModel(settings)
    model.load()[1].manifest["note"] = "\0"
    adaptation_id = enqueue(hyperparameters=STEPS)
    with pytest.raises(SubspaceError, match="manifest"):
        run(Drainer(engine, model, settings, new_id("worker")))
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("queued", 0)


def test_no_text_of_a_dataset_is_logged(
    drainer: Callable[..., Drainer], enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="worker")
    enqueue(hyperparameters=STEPS)
    enqueue(kind="text2text", hyperparameters=STEPS)
    failures: list[int] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not failures:
            failures.append(1)
            raise ValueError(EXAMPLES[0]["input"])

    run(drainer(before_step))
    logged = "\n".join(record.getMessage() + JsonFormatter().format(record) for record in caplog.records)
    assert "step_failed" in logged
    assert not [example["input"] for example in EXAMPLES if example["input"] in logged]
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)
