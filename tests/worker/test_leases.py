"""A worker that loses a lease discards its work, and another worker continues it."""

import threading

import pytest
from sqlalchemy import Engine, update

import ipt
from app.db.models import Adaptation, TaskVersion
from app.db.session import transaction
from tests.support.drain import STEPS, NewDrainer, drain_until_succeeded, run
from tests.support.jobs import Enqueue, Events, Row

pytestmark = pytest.mark.usefixtures("keep_tuned")


def test_a_hung_step_loses_its_lease_and_another_worker_continues(
    new_drainer: NewDrainer, enqueue: Enqueue, row: Row, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    steps: list[int] = []
    hangs, released = threading.Event(), threading.Event()

    def hang(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 3:
            hangs.set()
            assert released.wait(60)

    short_lease = {"lease_seconds": 1.0, "reap_seconds": 0.1}
    hung = threading.Thread(target=run, args=(new_drainer(hang, **short_lease),), daemon=True)
    hung.start()
    assert hangs.wait(60)
    drain_until_succeeded(new_drainer(**short_lease), lambda: row(adaptation_id).state)
    released.set()
    hung.join(60)
    assert not hung.is_alive()
    assert row(adaptation_id).attempt == 2
    types = [event.type for event in events(adaptation_id) if event.type != "progress"]
    assert types == ["queued", "running", "requeued", "running", "succeeded"]
    assert any(record.getMessage().startswith("lease_lost") for record in caplog.records)


def test_a_lost_lease_discards_the_work(new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue, row: Row) -> None:
    lost = enqueue(hyperparameters=STEPS)
    steps: list[int] = []

    def before_step(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 3:
            with transaction(engine) as session:
                session.execute(
                    update(Adaptation).where(Adaptation.id == lost).values(lease_token="0" * 32, worker_id="other")
                )

    run(new_drainer(before_step))
    assert (row(lost).state, row(lost).worker_id) == ("running", "other")
    with transaction(engine) as session:
        assert session.get(TaskVersion, (row(lost).task_id, 1)) is None
