"""Retention deletes what has aged out, and nothing else."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, text, update

import ipt
from app.db.models import Adaptation, AdaptationEvent, Dataset, SubspaceRow, Task, TaskVersion
from app.db.session import transaction
from app.queue import lifecycle, retention
from app.settings import Settings
from tests.support.claims import SUBSPACE, claim
from tests.support.jobs import Enqueue, Events, Row
from worker.retention import Retention

TUNED = ipt.AdaptedTask(
    ipt.TaskHead(
        vector=np.zeros(4, dtype=np.float32),
        subspace_id=SUBSPACE,
        kind="classification",
        labels=("a", "b"),
        readout=b"",
    ),
    metrics={},
    warnings=[],
)


@pytest.fixture(autouse=True)
def subspace(engine: Engine) -> None:
    with transaction(engine) as session:
        session.add(SubspaceRow(id=SUBSPACE, intrinsic_dim=4, prompt_length=2, hidden_size=8, manifest={}))


def finish(engine: Engine, *, days_ago: float) -> list[str]:
    """Finish every queued adaptation, with a version, as of some days ago; return their ids."""
    claimed = claim(engine, free_slots=100)
    ids = [each.lease.adaptation_id for each in claimed]
    with transaction(engine) as session:
        for each in claimed:
            assert lifecycle.succeed(session, each.lease, TUNED)
        past = func.now() - func.make_interval(0, 0, 0, days_ago)
        session.execute(update(Adaptation).where(Adaptation.id.in_(ids)).values(finished_at=past))
    return ids


def count(engine: Engine, table: Any) -> int:
    with transaction(engine) as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def run(engine: Engine, times: int = 1, **settings: Any) -> Retention:
    limited = Retention(engine, Settings(**settings))
    for _ in range(times):
        limited.run()
    return limited


def test_without_settings_everything_is_kept(engine: Engine, enqueue: Enqueue, events: Events) -> None:
    adaptation_id = enqueue()
    finish(engine, days_ago=1000)
    run(engine)
    assert len(events(adaptation_id)) == 3


def test_old_events_are_deleted_except_the_last(
    engine: Engine, enqueue: Enqueue, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    old = [enqueue() for _ in range(3)]
    finish(engine, days_ago=8)
    new, queued = enqueue(), None
    finish(engine, days_ago=6)
    queued = enqueue()
    limited = run(engine, keep_events_days=7)
    assert sum(len(events(adaptation_id)) == 1 for adaptation_id in old) == 2, "more than a batch"
    limited.run()
    assert [[event.type for event in events(adaptation_id)] for adaptation_id in old] == [["succeeded"]] * 3
    assert (len(events(new)), len(events(queued))) == (3, 1)
    assert count(engine, TaskVersion) == 4


def test_superseded_versions_are_deleted_with_datasets_that_nothing_uses(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    first, other = enqueue(), enqueue()
    finish(engine, days_ago=3)
    task_id, shared = row(first).task_id, row(other).dataset_id
    further = [first]
    for version in (2, 3):
        adaptation_id = enqueue()
        discarded = row(adaptation_id).task_id
        dataset = {"dataset_id": shared} if version == 2 else {}
        with transaction(engine) as session:
            values = {"task_id": task_id, "task_version": version, **dataset}
            session.execute(update(Adaptation).where(Adaptation.id == adaptation_id).values(values))
            session.execute(text("DELETE FROM tasks WHERE id = :id"), {"id": discarded})
            session.execute(text("DELETE FROM datasets WHERE id NOT IN (SELECT dataset_id FROM adaptations)"))
        finish(engine, days_ago=2)
        further.append(adaptation_id)
    with transaction(engine) as session:
        session.execute(update(Task).where(Task.id == task_id).values(promoted_version=1, canary_version=2))
    run(engine, keep_versions=1)
    assert count(engine, TaskVersion) == 4, "the promoted version and the canary stay"
    with transaction(engine) as session:
        session.execute(update(Task).where(Task.id == task_id).values(promoted_version=None, canary_version=None))
    run(engine, keep_versions=1)
    with transaction(engine) as session:
        versions = session.execute(select(TaskVersion.task_id, TaskVersion.version)).all()
        assert sorted(map(tuple, versions)) == sorted([(task_id, 3), (row(other).task_id, 1)])
        assert set(session.scalars(select(Adaptation.id))) == {further[2], other}
        assert set(session.scalars(select(Dataset.id))) == {shared, row(further[2]).dataset_id}
        assert not session.scalars(select(AdaptationEvent).where(AdaptationEvent.adaptation_id == first)).all()
    assert count(engine, Task) == 2


def test_old_failed_and_cancelled_adaptations_are_deleted(engine: Engine, enqueue: Enqueue) -> None:
    states = {enqueue(): (state, days) for state in ("failed", "cancelled", "succeeded") for days in (1, 3)}
    queued = enqueue()
    with transaction(engine) as session:
        for adaptation_id, (state, days) in states.items():
            past = func.now() - func.make_interval(0, 0, 0, days)
            session.execute(
                update(Adaptation).where(Adaptation.id == adaptation_id).values(state=state, finished_at=past)
            )
    run(engine, keep_failed_days=2)
    with transaction(engine) as session:
        kept = set(session.scalars(select(Adaptation.id)))
    assert kept == {i for i, (state, days) in states.items() if state == "succeeded" or days == 1} | {queued}


def test_retention_neither_waits_for_a_lock_nor_runs_twice_at_a_time(engine: Engine, enqueue: Enqueue) -> None:
    locked, other = enqueue(), enqueue()
    with transaction(engine) as session:
        session.execute(update(Adaptation).values(state="failed", finished_at=func.now() - func.make_interval(1)))
    with transaction(engine) as session:
        session.execute(select(Adaptation).where(Adaptation.id == locked).with_for_update())
        with transaction(engine) as holder:
            assert retention.take_turn(holder)
            run(engine, keep_failed_days=2)
            assert count(engine, Adaptation) == 2
        run(engine, keep_failed_days=2)
        assert count(engine, Adaptation) == 1
    run(engine, keep_failed_days=2)
    assert count(engine, Adaptation) == 0
    assert other
