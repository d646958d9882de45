"""The drain loop on a real database and a real engine: batches, cancellations, restarts and the list of workers."""

import threading
import time

import numpy as np
import pytest
from sqlalchemy import Engine, select

import ipt
from app.db.models import Adaptation, TaskVersion, Tenant, Worker
from app.db.session import transaction
from app.queue import lifecycle
from app.settings import DEFAULT_TENANT, Settings
from tests.support.drain import STEPS, NewDrainer, run, stored_vector, undisturbed_vector
from tests.support.jobs import Enqueue, Events, Row

pytestmark = pytest.mark.usefixtures("keep_tuned")


def test_queued_adaptations_are_tuned_in_one_batch(
    new_drainer: NewDrainer, engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, events: Events
) -> None:
    queued = [enqueue(hyperparameters=STEPS | {"seed": seed}) for seed in range(3)]
    batch_sizes: set[int] = set()
    run(new_drainer(lambda tuning: batch_sizes.add(len(tuning.job_ids))))
    assert 3 in batch_sizes
    for seed, adaptation_id in enumerate(queued):
        done = row(adaptation_id)
        assert done.metrics is not None
        assert (done.state, done.attempt, done.step) == ("succeeded", 1, done.metrics["steps_run"])
        assert 0 < done.step <= done.steps == 24
        assert 0.0 <= done.metrics["score"] <= 1.0
        expected = undisturbed_vector(settings, STEPS | {"seed": seed})
        np.testing.assert_allclose(stored_vector(engine, done), expected, rtol=1e-4, atol=1e-5)
        types = [event.type for event in events(adaptation_id)]
        assert types[:2] == ["queued", "running"]
        assert types[-1] == "succeeded"
        steps = [event.data["step"] for event in events(adaptation_id) if event.type == "progress"]
        assert steps == sorted(set(steps))
        assert 1 <= len(steps) <= 24


@pytest.mark.parametrize(("steps", "moved"), [(0, False), (24, True)])
def test_a_vector_that_did_not_move_stores_its_initial_vector(
    steps: int, moved: bool, new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    tuned = row(enqueue(hyperparameters=STEPS | {"steps": steps}))
    run(new_drainer())
    with transaction(engine) as session:
        version = session.get_one(TaskVersion, (tuned.task_id, tuned.task_version))
    assert (version.start is None) == moved


def test_a_worker_clears_idle_tenants(new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue) -> None:
    enqueue(hyperparameters=STEPS)
    run(new_drainer())
    run(new_drainer())  # a new worker reaps at its start
    with transaction(engine) as session:
        assert session.get_one(Tenant, DEFAULT_TENANT).waiting_since is None


def test_a_job_joins_a_running_batch(new_drainer: NewDrainer, enqueue: Enqueue, row: Row) -> None:
    queued = [enqueue(hyperparameters=STEPS | {"steps": 200})]
    batches: list[tuple[str, ...]] = []

    def before_step(tuning: ipt.TuningEngine) -> None:
        batches.append(tuning.job_ids)
        if len(batches) == 5:
            queued.append(enqueue(hyperparameters=STEPS))

    run(new_drainer(before_step, poll_seconds=0.001))
    assert tuple(queued) in batches
    assert [row(adaptation_id).state for adaptation_id in queued] == ["succeeded", "succeeded"]


def test_a_worker_announces_itself_and_signs_off(new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue) -> None:
    enqueue(hyperparameters=STEPS)
    subspace_ids: set[str | None] = set()
    most_jobs = 0

    def before_step(_: ipt.TuningEngine) -> None:
        nonlocal most_jobs
        with transaction(engine) as session:
            [worker] = session.scalars(select(Worker))
            subspace_ids.add(worker.subspace_id)
            most_jobs = max(most_jobs, worker.jobs)

    stop = threading.Event()
    drainer = new_drainer(before_step, heartbeat_seconds=0.001)
    thread = threading.Thread(target=drainer.poll, args=(stop,), daemon=True)
    thread.start()
    with transaction(engine) as session:
        query = select(Adaptation.subspace_id).where(Adaptation.state == "succeeded")
        deadline = time.monotonic() + 60
        while (subspace_id := session.scalar(query)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    stop.set()
    thread.join(60)
    assert (subspace_ids, most_jobs) == ({subspace_id}, 1)
    with transaction(engine) as session:
        assert session.scalars(select(Worker)).all() == []


def test_a_running_job_is_cancelled_within_a_step_and_its_neighbour_continues(
    new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue, row: Row, events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("worker.leases._CHECK_SECONDS", 0.0)  # a step of the tiny model is shorter than the default
    cancelled, neighbour = enqueue(hyperparameters=STEPS | {"steps": 2000}), enqueue(hyperparameters=STEPS)
    batches: list[tuple[str, ...]] = []

    def before_step(tuning: ipt.TuningEngine) -> None:
        batches.append(tuning.job_ids)
        if len(batches) == 3:
            with transaction(engine) as session:
                lifecycle.request_cancel(session, DEFAULT_TENANT, cancelled)

    run(new_drainer(before_step))
    assert row(cancelled).state == "cancelled"
    assert row(neighbour).state == "succeeded"
    assert events(cancelled)[-1].type == "cancelled"
    # The third step had already begun.
    assert [cancelled in batch for batch in batches] == [True] * 3 + [False] * (len(batches) - 3)
    assert len(batches) > 3


def test_a_stopped_worker_releases_its_job_and_the_next_worker_resumes_exactly(
    new_drainer: NewDrainer, engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    stop = threading.Event()

    def before_step(_: ipt.TuningEngine) -> None:
        if row(adaptation_id).checkpoint is not None:
            stop.set()

    run(new_drainer(before_step), stop)
    released = row(adaptation_id)
    assert (released.state, released.attempt, released.lease_token) == ("queued", 0, None)
    assert released.checkpoint is not None
    assert 0 < released.step < 24
    run(new_drainer())
    done = row(adaptation_id)
    assert (done.state, done.attempt) == ("succeeded", 1)
    expected = undisturbed_vector(settings, STEPS)
    np.testing.assert_allclose(stored_vector(engine, done), expected, rtol=1e-4, atol=1e-5)
    claims = [event.data for event in events(adaptation_id) if event.type == "running"]
    assert [data["step"] for data in claims] == [0, released.step]


def test_a_running_job_is_paused_within_a_step_and_resumes_exactly(
    new_drainer: NewDrainer, engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("worker.leases._CHECK_SECONDS", 0.0)  # a step of the tiny model is shorter than the default
    adaptation_id = enqueue(hyperparameters=STEPS)
    steps = 0

    def before_step(_: ipt.TuningEngine) -> None:
        nonlocal steps
        steps += 1
        if steps == 7:
            with transaction(engine) as session:
                lifecycle.request_pause(session, DEFAULT_TENANT, adaptation_id)

    run(new_drainer(before_step))
    paused = row(adaptation_id)
    assert (paused.state, paused.attempt, paused.pause_requested, paused.lease_token) == ("paused", 0, False, None)
    assert 0 < paused.step < 24
    assert steps == 7
    run(new_drainer(before_step))
    assert (row(adaptation_id).state, steps) == ("paused", 7)
    with transaction(engine) as session:
        lifecycle.resume(session, DEFAULT_TENANT, adaptation_id)
    run(new_drainer())
    done = row(adaptation_id)
    assert (done.state, done.attempt) == ("succeeded", 1)
    expected = undisturbed_vector(settings, STEPS)
    np.testing.assert_allclose(stored_vector(engine, done), expected, rtol=1e-4, atol=1e-5)
    happened = [event.data.get("reason", event.type) for event in events(adaptation_id) if event.type != "progress"]
    expected_events = ["queued", "running", "pause_requested", "paused", "resumed", "running", "succeeded"]
    assert happened == expected_events


def test_a_damaged_checkpoint_restarts_the_job(
    new_drainer: NewDrainer, engine: Engine, settings: Settings, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS, checkpoint=b"not a checkpoint", step=10, steps=24)
    run(new_drainer())
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
    expected = undisturbed_vector(settings, STEPS)
    np.testing.assert_allclose(stored_vector(engine, row(adaptation_id)), expected, rtol=1e-4, atol=1e-5)
