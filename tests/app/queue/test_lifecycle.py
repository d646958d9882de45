"""State changes of an adaptation in the database: which worker may write to a row, and the row's next state."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import OperationalError

import ipt
from app.db.models import Adaptation, HeldOutRow, Task, TaskVersion, Tenant
from app.db.session import transaction
from app.errors import ErrorDetail
from app.queue import lifecycle
from app.queue.lifecycle import MAX_LOSSES, Lease
from app.settings import DEFAULT_TENANT
from ipt.tuning.held_out import HeldOutLogits
from tests.support.claims import SUBSPACE, claim, claim_one, ids
from tests.support.jobs import Enqueue, Events, Row

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
    held_out=HeldOutLogits(np.array([2, 0], dtype=np.int32), np.array([[0.5, 1.5], [2.0, -1.0]], dtype=np.float32)),
)

pytestmark = pytest.mark.usefixtures("subspace")


def expire_lease(engine: Engine, adaptation_id: str) -> None:
    with transaction(engine) as session:
        past = datetime.now(UTC) - timedelta(hours=1)
        session.execute(update(Adaptation).where(Adaptation.id == adaptation_id).values(lease_until=past))


def test_renewing_a_lease_stores_progress_and_checkpoint(
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


def test_success_stores_the_task_version_and_clears_the_lease(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue(step=20, steps=40)
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.succeed(session, lease, TUNED)
    done = row(adaptation_id)
    assert (done.state, done.metrics, done.warnings) == ("succeeded", TUNED.metrics, ["small"])
    assert (done.step, done.steps) == (27, 40), "the step is not the step at which tuning stopped"
    assert done.lease_token is None
    assert done.checkpoint is None
    assert done.finished_at is not None
    with transaction(engine) as session:
        version = session.get_one(TaskVersion, (lease.task_id, 1))
        held_out = session.get_one(HeldOutRow, (lease.task_id, 1))
    assert TUNED.held_out is not None
    np.testing.assert_array_equal(HeldOutLogits.from_bytes(held_out.logits, 3, 2).logits, TUNED.held_out.logits)
    np.testing.assert_array_equal(np.asarray(version.vector), TUNED.head.vector)
    assert (version.readout, version.labels, version.subspace_id) == (b"readout", ["a", "b"], SUBSPACE)
    assert events(adaptation_id)[-1].type == "succeeded"


def test_storing_a_success_twice_stores_one_version(engine: Engine, enqueue: Enqueue) -> None:
    enqueue()
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.succeed(session, lease, TUNED)
    with transaction(engine) as session:
        assert not lifecycle.succeed(session, lease, TUNED)


def test_a_worker_that_lost_its_lease_writes_nothing(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    lost = claim_one(engine)
    expire_lease(engine, adaptation_id)
    with transaction(engine) as session:
        lifecycle.reap(session)
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
        assert lifecycle.check_leases(session, [current]) == {adaptation_id: None}
    kept = row(adaptation_id)
    assert (kept.state, kept.lease_token, kept.checkpoint, kept.attempt) == ("running", current.token, None, 2)


def test_deleting_a_task_deletes_its_adaptation_and_the_worker_discards_its_work(
    engine: Engine, enqueue: Enqueue
) -> None:
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

        def delete_task(lease: Lease = lease, ready: threading.Barrier = ready) -> None:
            ready.wait(timeout=30)
            with transaction(engine) as session:
                session.execute(delete(Task).where(Task.id == lease.task_id))

        with ThreadPoolExecutor(2) as threads:
            for future in (threads.submit(succeed), threads.submit(delete_task)):
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


def test_a_running_adaptation_is_cancelled_by_its_worker_even_if_it_has_just_finished(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine)
    with transaction(engine) as session:
        requested = lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
        assert requested is not None
        assert requested.state == "running"
    with transaction(engine) as session:
        assert lifecycle.check_leases(session, [lease]) == {adaptation_id: "cancel"}
        assert lifecycle.succeed(session, lease, TUNED)
    assert row(adaptation_id).state == "cancelled"
    with transaction(engine) as session:
        assert session.get(TaskVersion, (lease.task_id, 1)) is None


def test_a_queued_adaptation_is_paused_at_once_and_keeps_its_place(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    first, second = enqueue(), enqueue()
    with transaction(engine) as session:
        lifecycle.request_pause(session, DEFAULT_TENANT, first)
    assert row(first).state == "paused"
    assert ids(claim(engine, free_slots=1)) == [second]
    with transaction(engine) as session:
        lifecycle.resume(session, DEFAULT_TENANT, first)
    assert ids(claim(engine)) == [first]
    assert [event.type for event in events(first)] == ["queued", "paused", "requeued", "running"]


def test_a_resumed_adaptation_of_an_idle_tenant_is_claimed(engine: Engine, enqueue: Enqueue) -> None:
    adaptation_id = enqueue()
    with transaction(engine) as session:
        lifecycle.request_pause(session, DEFAULT_TENANT, adaptation_id)
    with transaction(engine) as session:
        lifecycle.reap(session)
        assert session.get_one(Tenant, DEFAULT_TENANT).waiting_since is None
    with transaction(engine) as session:
        lifecycle.resume(session, DEFAULT_TENANT, adaptation_id)
    assert ids(claim(engine)) == [adaptation_id]


def test_a_request_to_pause_is_withdrawn_by_a_resumption(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine)
    demands = []
    for change in (lifecycle.request_pause, lifecycle.resume):
        with transaction(engine) as session:
            change(session, DEFAULT_TENANT, adaptation_id)
            demands.append(lifecycle.check_leases(session, [lease])[adaptation_id])
    assert demands == ["pause", None]
    with transaction(engine) as session:
        lifecycle.release(session, lease, reason="pause_requested", step=3, checkpoint=b"state")
    assert row(adaptation_id).state == "queued"


def test_a_paused_adaptation_is_cancelled_at_once(engine: Engine, enqueue: Enqueue, row: Row, events: Events) -> None:
    adaptation_id = enqueue()
    with transaction(engine) as session:
        lifecycle.request_pause(session, DEFAULT_TENANT, adaptation_id)
    with transaction(engine) as session:
        lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
    assert row(adaptation_id).state == "cancelled"
    assert [event.type for event in events(adaptation_id)] == ["queued", "paused", "cancelled"]


def test_only_the_tenant_can_cancel_and_a_finished_adaptation_does_not_change(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue()
    with transaction(engine) as session:
        assert lifecycle.request_cancel(session, "other_tenant", adaptation_id) is None
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.succeed(session, lease, TUNED)
    with transaction(engine) as session:
        finished = lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
        assert finished is not None
        assert (finished.state, finished.cancel_requested) == ("succeeded", False)


def test_releasing_does_not_count_the_attempt(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.release(session, lease, reason="worker_stopped", step=4, checkpoint=b"state")
    released = row(adaptation_id)
    assert (released.state, released.attempt, released.step, released.checkpoint) == ("queued", 0, 4, b"state")
    (again,) = claim(engine)
    assert (again.checkpoint, again.step, again.attempt) == (b"state", 4, 1)


def test_preemption_counts_no_attempt_and_moves_only_a_retry_to_the_end(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    first, retry, waiting = enqueue(), enqueue(attempt=1), enqueue()
    for expected in (first, retry):
        (claimed,) = claim(engine, free_slots=1)
        assert ids([claimed]) == [expected]
        with transaction(engine) as session:
            assert lifecycle.preempt(session, claimed.lease, step=4, checkpoint=b"state")
            assert not lifecycle.preempt(session, claimed.lease, step=4, checkpoint=b"state"), (
                "a released lease still writes"
            )
        preempted = row(expected)
        assert (preempted.state, preempted.attempt, preempted.step, preempted.checkpoint) == (
            "queued",
            int(expected == retry),
            4,
            b"state",
        )
        assert events(expected)[-1].data == {"reason": "made_way", "attempt": preempted.attempt, "step": 4}
        if expected == first:
            assert ids(claim(engine, free_slots=1)) == [first], "a preempted first attempt lost its place"
    assert ids(claim(engine, free_slots=1)) == [waiting]
    assert ids(claim(engine, free_slots=1)) == [retry]


def test_preemption_waits_for_no_lock(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    lease = claim_one(engine)
    with transaction(engine) as other:
        other.execute(select(Adaptation.id).where(Adaptation.id == adaptation_id).with_for_update())
        with pytest.raises(OperationalError), transaction(engine) as session:
            lifecycle.preempt(session, lease, step=4, checkpoint=b"state")
    assert (row(adaptation_id).state, row(adaptation_id).step) == ("running", 0)


def test_a_failed_attempt_is_retried_until_the_last_attempt(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue()
    for attempt in (1, 2):
        lease = claim_one(engine)
        with transaction(engine) as session:
            assert lifecycle.retry(session, lease, max_attempts=2, error=ERROR)
        assert row(adaptation_id).attempt == attempt
    assert (row(adaptation_id).state, row(adaptation_id).error) == ("failed", ERROR.model_dump())
    assert [event.type for event in events(adaptation_id)] == ["queued", "running", "requeued", "running", "failed"]


def lose_worker(engine: Engine, adaptation_id: str, *, step: int = 0) -> lifecycle.ReapedAdaptation:
    """Claim the adaptation, report a step, and let the lease expire."""
    lease = claim_one(engine)
    with transaction(engine) as session:
        assert lifecycle.renew(session, lease, lease_seconds=60, step=step, steps=99, checkpoint=None, event=None)
        assert lifecycle.reap(session) == []
    expire_lease(engine, adaptation_id)
    with transaction(engine) as session:
        (reaped,) = lifecycle.reap(session)
    return reaped


def test_an_adaptation_that_loses_its_workers_at_the_same_step_fails(
    engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    adaptation_id = enqueue()
    reaped = [lose_worker(engine, adaptation_id, step=7) for _ in range(MAX_LOSSES)]
    assert [each.state for each in reaped] == ["queued"] * (MAX_LOSSES - 1) + ["failed"]
    assert [each.attempt for each in reaped] == list(range(1, MAX_LOSSES + 1))
    error = row(adaptation_id).error
    assert error is not None
    assert error["code"] == "worker_lost"
    assert events(adaptation_id)[-1].data == {"error": error}


def test_the_error_of_lost_workers_says_how_the_last_one_ended(engine: Engine, enqueue: Enqueue, row: Row) -> None:
    adaptation_id = enqueue()
    for _ in range(MAX_LOSSES - 1):
        lose_worker(engine, adaptation_id)
    claim(engine, free_slots=1, worker_id="host:supervised:1")
    expire_lease(engine, adaptation_id)
    with transaction(engine) as session:
        lifecycle.reap(session, {"host:supervised:1": "crashed (signal 11)", "host:2": "ended with exit status 1"})
    error = row(adaptation_id).error
    assert error is not None
    assert "were lost at the same step: the last one crashed (signal 11)." in error["message"]


def test_lost_workers_are_no_attempts_of_an_adaptation_that_gets_further(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue()
    for step in range(2 * MAX_LOSSES):
        assert lose_worker(engine, adaptation_id, step=step).state == "queued"
    for state in ("queued", "failed"):
        with transaction(engine) as session:
            assert lifecycle.retry(session, claim_one(engine), max_attempts=2, error=ERROR)
        assert row(adaptation_id).state == state
    assert row(adaptation_id).error == ERROR.model_dump()


def test_the_reaper_cancels_an_adaptation_whose_cancellation_was_requested(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    adaptation_id = enqueue()
    claim_one(engine)
    with transaction(engine) as session:
        lifecycle.request_cancel(session, DEFAULT_TENANT, adaptation_id)
    expire_lease(engine, adaptation_id)
    with transaction(engine) as session:
        lifecycle.reap(session)
    assert row(adaptation_id).state == "cancelled"


def test_a_replacement_worker_expires_only_its_predecessors_leases(engine: Engine, enqueue: Enqueue) -> None:
    own, other = enqueue(), enqueue()
    assert ids(claim(engine, free_slots=1, worker_id="host:supervised:1")) == [own]
    assert ids(claim(engine, free_slots=1, worker_id="host:2")) == [other]
    with transaction(engine) as session:
        assert lifecycle.expire_leases(session, "host:supervised:1") == 1
        assert [reaped.adaptation_id for reaped in lifecycle.reap(session)] == [own]
