"""Failed jobs: rejected, poison, out-of-memory, a lost device; errors that a test cannot cause are raised in a step."""

import pytest
import torch
from sqlalchemy import Engine, text

import ipt
from app.db.session import transaction
from app.logs import JsonFormatter
from app.queue.lifecycle import MAX_LOSSES
from tests.support.drain import STEPS, NewDrainer, run
from tests.support.jobs import EXAMPLES, Enqueue, Events, Row
from worker.failures import DeviceLostError

pytestmark = pytest.mark.usefixtures("keep_tuned")


def test_an_adaptation_that_the_core_rejects_fails_at_once_with_a_reason(
    new_drainer: NewDrainer, enqueue: Enqueue, row: Row
) -> None:
    one_label = enqueue(examples=[{"input": f"text {i}", "output": "same"} for i in range(4)])
    text2text = enqueue(kind="text2text", hyperparameters=STEPS)
    wrong_value = enqueue(hyperparameters={"steps": -1})
    wrong_name = enqueue(hyperparameters={"temperature": 1})
    valid = enqueue(hyperparameters=STEPS)
    run(new_drainer(max_attempts=1))
    for adaptation_id, param, code in (
        (one_label, "examples", "invalid_dataset"),
        (text2text, "kind", "invalid_dataset"),
        (wrong_value, "steps", "adaptation_refused"),
        (wrong_name, None, "internal_error"),
    ):
        failed = row(adaptation_id)
        assert failed.error is not None
        assert (failed.state, failed.error["param"], failed.error["code"]) == ("failed", param, code)
        assert set(failed.error) == {"message", "type", "param", "code"}
    assert row(valid).state == "succeeded"


def test_only_the_poison_job_fails(new_drainer: NewDrainer, enqueue: Enqueue, row: Row, events: Events) -> None:
    neighbours = [enqueue(hyperparameters=STEPS), enqueue(hyperparameters=STEPS)]
    poison = enqueue(hyperparameters=STEPS)
    batches: list[tuple[str, ...]] = []

    def before_step(tuning: ipt.TuningEngine) -> None:
        batches.append(tuning.job_ids)
        if poison in tuning.job_ids and len(batches) > 3:
            raise ValueError("quotes the tenant's text")

    run(new_drainer(before_step))
    assert [row(adaptation_id).state for adaptation_id in neighbours] == ["succeeded", "succeeded"]
    assert [row(adaptation_id).attempt for adaptation_id in neighbours] == [2, 2]
    failed = row(poison)
    assert failed.error is not None
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 3, "internal_error")
    assert "quotes" not in str(failed.error)
    first_failure = next(index for index, batch in enumerate(batches[3:], 3) if poison in batch)
    assert all(len(batch) == 1 for batch in batches[first_failure + 1 :])
    assert [event.type for event in events(poison)].count("requeued") == 2


@pytest.mark.parametrize("kills_worker", [True, False], ids=["kills its worker", "fails"])
def test_only_the_poison_job_fails_with_one_attempt(
    new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue, row: Row, kills_worker: bool
) -> None:
    poison, *neighbours = (enqueue(hyperparameters=STEPS) for _ in range(3))
    batches: list[tuple[str, ...]] = []

    def before_step(tuning: ipt.TuningEngine) -> None:
        batches.append(tuning.job_ids)
        if poison in tuning.job_ids:
            raise SystemExit if kills_worker else ValueError

    for _ in range(MAX_LOSSES if kills_worker else 0):
        with pytest.raises(SystemExit):  # the worker ends without storing an outcome
            run(new_drainer(before_step, max_attempts=1))
        with transaction(engine) as session:
            session.execute(text("UPDATE adaptations SET lease_until = now() WHERE state = 'running'"))
    run(new_drainer(before_step, max_attempts=1))
    assert all(len(batch) == 1 for batch in batches)
    assert [(row(job).state, row(job).attempt) for job in (poison, *neighbours)] == [
        ("failed", MAX_LOSSES if kills_worker else 1),
        ("succeeded", 1),
        ("succeeded", 1),
    ]


def test_an_out_of_memory_batch_is_halved_until_it_fits(new_drainer: NewDrainer, enqueue: Enqueue, row: Row) -> None:
    queued = [enqueue(hyperparameters=STEPS) for _ in range(5)]

    def before_step(tuning: ipt.TuningEngine) -> None:
        if len(tuning.job_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    run(new_drainer(before_step))
    assert [(row(job).state, row(job).attempt) for job in queued] == [("succeeded", 1)] * 5


def test_a_single_job_that_runs_out_of_memory_fails_with_that_reason(
    new_drainer: NewDrainer, enqueue: Enqueue, row: Row
) -> None:
    too_large = enqueue(hyperparameters=STEPS)

    def before_step(_: ipt.TuningEngine) -> None:
        torch.empty(10**15)  # raises the allocator's own error

    run(new_drainer(before_step, max_attempts=2))
    failed = row(too_large)
    assert failed.error is not None
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 2, "out_of_memory")


def test_a_lost_device_releases_its_jobs_and_ends_the_worker(
    new_drainer: NewDrainer, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)

    def before_step(_: ipt.TuningEngine) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceLostError):
        run(new_drainer(before_step))
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("queued", 1)


def test_no_text_of_a_dataset_is_logged(
    new_drainer: NewDrainer, enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="worker")
    enqueue(hyperparameters=STEPS)
    enqueue(kind="text2text", hyperparameters=STEPS)
    failures: list[int] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not failures:
            failures.append(1)
            raise ValueError(EXAMPLES[0]["input"])

    run(new_drainer(before_step))
    logged = "\n".join(record.getMessage() + JsonFormatter().format(record) for record in caplog.records)
    assert "step_failed" in logged
    assert not [example["input"] for example in EXAMPLES if example["input"] in logged]
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)
