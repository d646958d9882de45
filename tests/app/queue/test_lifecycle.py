"""The life of an adaptation in the database alone: who may write to a row, and what becomes of it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import OperationalError

import ipt
from app.db.models import Adaptation, AdaptationEvent, Task, TaskVersion
from app.db.session import transaction
from app.errors import ErrorDetail
from app.queue import claiming, lifecycle
from app.queue.claiming import ClaimedAdaptation
from app.queue.lifecycle import Lease
from app.settings import DEFAULT_TENANT
from tests.support.jobs import Enqueue

SUBSPACE = "sub_test"
ERROR = ErrorDetail(message="no", type="internal_error", param=None, code="internal_error")
TUNED = ipt.AdaptedTask(
    ipt.TaskHead(
        vector=np.array([0.5, -0.25, 0.0, 1.0], dtype=np.float32),
        subspace_id=SUBSPACE,
        kind="classification",
        labels=("a", "b"),
        readout=b"readout",
    ),
    metrics={"score": 0.75, "steps_run": 27},
    warnings=["small"],
)

Row = Callable[[str], Adaptation]
Events = Callable[[str], list[AdaptationEvent]]


@pytest.fixture(autouse=True)
def subspace(enqueue: Enqueue, engine: Engine) -> None:
    """The subspace's row is there, as the worker makes sure of."""
    adaptation_id = enqueue(subspace_id=SUBSPACE)
    with transaction(engine) as session:
        session.execute(delete(Task).where(Task.id == session.get_one(Adaptation, adaptation_id).task_id))


def claim(engine: Engine, *, free_slots: int = 8, worker_id: str = "w", lease: float = 60) -> list[ClaimedAdaptation]:
    with transaction(engine) as session:
        return claiming.claim(
            session, subspace_id=SUBSPACE, worker_id=worker_id, lease_seconds=lease, free_slots=free_slots, protected=0
        )


def claim_one(engine: Engine, *, lease: float = 60) -> Lease:
    (claimed,) = claim(engine, lease=lease)
    return claimed.lease


def ids(claimed: list[ClaimedAdaptation]) -> list[str]:
    return [one.lease.adaptation_id for one in claimed]


def expire(engine: Engine, adaptation_id: str) -> None:
    with transaction(engine) as session:
        past = datetime.now(UTC) - timedelta(hours=1)
        session.execute(update(Adaptation).where(Adaptation.id == adaptation_id).values(lease_until=past))


def test_a_claim_takes_the_oldest_and_says_so(engine: Engine, enqueue: Enqueue, row: Row, events: Events) -> None:
    queued = [enqueue() for _ in range(3)]
    claimed = claim(engine, free_slots=2, worker_id="host:1")
    assert ids(claimed) == queued[:2]
    first = row(queued[0])
    assert (first.state, first.attempt, first.worker_id) == ("running", 1, "host:1")
    assert first.subspace_id == SUBSPACE
    assert first.lease_token == claimed[0].lease.token
    assert first.started_at is not None
    assert [(event.seq, event.type) for event in events(queued[0])] == [(1, "queued"), (2, "running")]
    assert row(queued[2]).state == "queued"


def test_a_claim_is_exclusive_among_many_workers(engine: Engine, enqueue: Enqueue) -> None:
    queued = {enqueue() for _ in range(24)}
    ready = threading.Barrier(8)

    def work(number: int) -> list[str]:
        ready.wait(timeout=30)
        taken: list[str] = []
        for _ in range(20):
            taken += ids(claim(engine, free_slots=2, worker_id=f"w{number}"))
        return taken

    with ThreadPoolExecutor(8) as workers:
        taken = [adaptation_id for part in workers.map(work, range(8)) for adaptation_id in part]
    assert len(taken) == len(set(taken))
    assert set(taken) == queued


def test_a_claim_does_not_wait_for_another_workers_claim(engine: Engine, enqueue: Enqueue) -> None:
    first, second = enqueue(), enqueue()
    with transaction(engine) as other:
        other.execute(select(Adaptation.id).where(Adaptation.id == first).with_for_update())
        assert ids(claim(engine)) == [second]


def test_only_rows_of_the_workers_own_subspace_are_claimed(engine: Engine, enqueue: Enqueue) -> None:
    enqueue(subspace_id="sub_other")
    own = enqueue(subspace_id=SUBSPACE)
    assert ids(claim(engine)) == [own]


@pytest.mark.parametrize(
    ("attempts", "free_slots", "protected", "joining"),
    [
        ([], 8, 0, 0),
        ([0, 0, 0], 8, 0, 3),
        ([0, 0], 3, 5, 2),
        ([0], 0, 0, 0),
        ([0, 1, 0], 8, 0, 1),
        ([1, 0], 8, 0, 1),
        ([1, 0], 7, 1, 0),
        ([1], 0, 8, 0),
        ([1], 0, 0, 1),
        ([2], 8, 0, 1),
    ],
)
def test_what_was_tried_before_runs_alone_and_is_not_overtaken(
    attempts: list[int], free_slots: int, protected: int, joining: int
) -> None:
    assert claiming.count_joining(attempts, free_slots, protected) == joining


def test_a_report_renews_the_lease_and_keeps_progress_and_checkpoint(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine, lease=1)
    before = row(adaptation_id).lease_until
    with transaction(engine) as session:
        assert lifecycle.renew(
            session, lease, lease_seconds=60, step=3, steps=9, checkpoint=b"state", event={"step": 3, "loss": 0.5}
        )
    after = row(adaptation_id)
    assert before is not None
    assert after.lease_until is not None
    assert after.lease_until > before + timedelta(seconds=50)
    assert (after.step, after.steps, after.checkpoint) == (3, 9, b"state")
    assert events(adaptation_id)[-1].data == {"step": 3, "loss": 0.5}


def test_success_keeps_the_task_version_and_ends_the_lease(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue(step=20, steps=40)
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.succeed(session, lease, TUNED)
    done = row(adaptation_id)
    assert (done.state, done.metrics, done.warnings) == ("succeeded", TUNED.metrics, ["small"])
    assert (done.step, done.steps) == (27, 40), "tuning that stopped early claims no more steps than it took"
    assert done.lease_token is None
    assert done.checkpoint is None
    assert done.finished_at is not None
    with transaction(engine) as session:
        version = session.get_one(TaskVersion, (lease.task_id, 1))
    np.testing.assert_array_equal(np.asarray(version.vector), TUNED.head.vector)
    assert (version.readout, version.labels, version.subspace_id) == (b"readout", ["a", "b"], SUBSPACE)
    assert events(adaptation_id)[-1].type == "succeeded"


def test_storing_a_success_twice_keeps_one_version(engine: Engine, enqueue: Enqueue) -> None:
    enqueue()
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.succeed(session, lease, TUNED)
    with transaction(engine) as session:
        assert not lifecycle.succeed(session, lease, TUNED)


def test_whoever_lost_the_lease_writes_nothing(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    lost = claim_one(engine)
    expire(engine, adaptation_id)
    with transaction(engine) as session:
        lifecycle.reap(session, max_attempts=3)
    current = claim_one(engine)
    with transaction(engine) as session:
        assert not lifecycle.succeed(session, lost, TUNED)
        assert not lifecycle.fail(session, lost, ERROR)
        assert not lifecycle.release(session, lost, reason="late", step=1, checkpoint=b"late")
        assert not lifecycle.retry(session, lost, max_attempts=1, error=ERROR)
        assert not lifecycle.cancel_running(session, lost)
        assert not lifecycle.renew(
            session, lost, lease_seconds=60, step=9, steps=9, checkpoint=b"late", event={"step": 9}
        )
        assert lifecycle.check_leases(session, [lost]) == {}
        assert lifecycle.check_leases(session, [current]) == {adaptation_id: False}
    kept = row(adaptation_id)
    assert (kept.state, kept.lease_token, kept.checkpoint, kept.attempt) == ("running", current.token, None, 2)


def test_a_deleted_task_takes_its_adaptation_along_and_the_worker_discards(engine: Engine, enqueue: Enqueue) -> None:
    enqueue()
    lease = claim_one(engine)
    with transaction(engine) as session:
        session.execute(delete(Task).where(Task.id == lease.task_id))
    with transaction(engine) as session:
        assert lifecycle.check_leases(session, [lease]) == {}
        assert not lifecycle.succeed(session, lease, TUNED)


def test_deleting_a_task_while_its_adaptation_succeeds_does_not_deadlock(engine: Engine, enqueue: Enqueue) -> None:
    for _ in range(10):
        enqueue()
        lease = claim_one(engine)
        ready = threading.Barrier(2)

        def succeed(lease: Lease = lease, ready: threading.Barrier = ready) -> None:
            ready.wait(timeout=30)
            with transaction(engine) as session:
                lifecycle.succeed(session, lease, TUNED)

        def remove(lease: Lease = lease, ready: threading.Barrier = ready) -> None:
            ready.wait(timeout=30)
            with transaction(engine) as session:
                session.execute(delete(Task).where(Task.id == lease.task_id))

        with ThreadPoolExecutor(2) as threads:
            for future in (threads.submit(succeed), threads.submit(remove)):
                future.result(timeout=30)


def test_a_queued_adaptation_is_cancelled_at_once(engine: Engine, enqueue: Enqueue, row: Row, events: Events) -> None:
    adaptation_id = enqueue()
    with transaction(engine) as session:
        cancelled = lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
        assert cancelled is not None
        assert cancelled.state == "cancelled"
        assert cancelled.finished_at is not None
    assert claim(engine) == []
    assert events(adaptation_id)[-1].type == "cancelled"


def test_a_running_adaptation_is_cancelled_by_its_worker_even_when_it_just_got_done(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine)
    with transaction(engine) as session:
        asked = lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
        assert asked is not None
        assert asked.state == "running"
    with transaction(engine) as session:
        assert lifecycle.check_leases(session, [lease]) == {adaptation_id: True}
        assert lifecycle.succeed(session, lease, TUNED)
    assert row(adaptation_id).state == "cancelled"
    with transaction(engine) as session:
        assert session.get(TaskVersion, (lease.task_id, 1)) is None


def test_cancelling_is_for_the_tenant_alone_and_leaves_what_has_ended(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue()
    with transaction(engine) as session:
        assert lifecycle.request_cancel(session, "somebody_else", adaptation_id) is None
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.succeed(session, lease, TUNED)
    with transaction(engine) as session:
        ended = lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
        assert ended is not None
        assert (ended.state, ended.cancel_requested) == ("succeeded", False)


def test_handing_back_does_not_count_the_attempt(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.release(session, lease, reason="worker_stopped", step=4, checkpoint=b"state")
    back = row(adaptation_id)
    assert (back.state, back.attempt, back.step, back.checkpoint) == ("queued", 0, 4, b"state")
    (again,) = claim(engine)
    assert (again.checkpoint, again.step, again.attempt) == (b"state", 4, 1)


def test_to_make_way_counts_no_attempt_and_only_a_retried_one_goes_to_the_end(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    first, retried, waiting = enqueue(), enqueue(attempt=1), enqueue()
    for expected in (first, retried):
        (claimed,) = claim(engine, free_slots=1)
        assert ids([claimed]) == [expected]
        with transaction(engine) as session:
            assert lifecycle.preempt(session, claimed.lease, step=4, checkpoint=b"state")
            assert not lifecycle.preempt(session, claimed.lease, step=4, checkpoint=b"state"), "it is ours no more"
        back = row(expected)
        assert (back.state, back.attempt, back.step, back.checkpoint) == (
            "queued",
            int(expected == retried),
            4,
            b"state",
        )
        assert events(expected)[-1].data == {"reason": "made_way", "attempt": back.attempt, "step": 4}
        if expected == first:
            assert ids(claim(engine, free_slots=1)) == [first], "it has kept its place"
    assert ids(claim(engine, free_slots=1)) == [waiting]
    assert ids(claim(engine, free_slots=1)) == [retried]


def test_to_make_way_waits_for_nobody(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine)
    with transaction(engine) as other:
        other.execute(select(Adaptation.id).where(Adaptation.id == adaptation_id).with_for_update())
        with pytest.raises(OperationalError), transaction(engine) as session:
            lifecycle.preempt(session, lease, step=4, checkpoint=b"state")
    assert (row(adaptation_id).state, row(adaptation_id).step) == ("running", 0)


def test_a_failed_attempt_is_retried_until_the_last(engine: Engine, enqueue: Enqueue, row: Row, events: Events) -> None:
    adaptation_id = enqueue()
    for attempt in (1, 2):
        lease = claim_one(engine)
        with transaction(engine) as session:
            assert lifecycle.retry(session, lease, max_attempts=2, error=ERROR)
        assert row(adaptation_id).attempt == attempt
    assert (row(adaptation_id).state, row(adaptation_id).error) == ("failed", ERROR.model_dump())
    assert [event.type for event in events(adaptation_id)] == ["queued", "running", "requeued", "running", "failed"]


def test_the_reaper_queues_again_and_fails_at_the_last_attempt(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue()
    for attempt, state in ((1, "queued"), (2, "failed")):
        claim_one(engine)
        with transaction(engine) as session:
            assert lifecycle.reap(session, max_attempts=2) == []
        expire(engine, adaptation_id)
        with transaction(engine) as session:
            (reaped,) = lifecycle.reap(session, max_attempts=2)
        assert (reaped.adaptation_id, reaped.attempt, reaped.state) == (adaptation_id, attempt, state)
    error = row(adaptation_id).error
    assert error is not None
    assert error["code"] == "worker_lost"
    assert events(adaptation_id)[-1].data == {"error": error}


def test_the_reaper_cancels_what_was_to_be_cancelled(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    claim_one(engine)
    with transaction(engine) as session:
        lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
    expire(engine, adaptation_id)
    with transaction(engine) as session:
        lifecycle.reap(session, max_attempts=1)
    assert row(adaptation_id).state == "cancelled"


def test_a_replaced_worker_expires_its_predecessors_leases_only(engine: Engine, enqueue: Enqueue) -> None:
    mine, others = enqueue(), enqueue()
    assert ids(claim(engine, free_slots=1, worker_id="host:supervised:1")) == [mine]
    assert ids(claim(engine, free_slots=1, worker_id="host:2")) == [others]
    with transaction(engine) as session:
        assert lifecycle.expire_leases(session, "host:supervised:1") == 1
        assert [reaped.adaptation_id for reaped in lifecycle.reap(session, max_attempts=3)] == [mine]
