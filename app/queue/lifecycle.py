"""The SQL of an adaptation's state changes: enqueue, renew, release, preempt, retry, finish, cancel, pause, reap.

Functions work inside the caller's transaction and do not commit. A worker writes under the `Lease` that `claiming`
returned: each write is a compare-and-set on the lease token, and returns False if the lease was lost. Only the
database's clock decides when a lease expires.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import exists, func, select, text, update
from sqlalchemy.orm import Session

from app.db.models import FINISHED, Adaptation, AdaptationEvent, HeldOutRow, State, Task, TaskVersion
from app.db.session import after_commit
from app.errors import ErrorDetail
from app.queue import comparison, metrics, turns, workers

if TYPE_CHECKING:  # importing the core loads torch, which not every process that uses the queue needs
    from ipt import AdaptedTask

Demand = Literal["cancel", "pause"]
MAX_LOSSES = 5
"""Workers in a row that an adaptation may lose at the same step; a job that ends its worker must not do so forever."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one adaptation until another worker claims it."""

    adaptation_id: str
    task_id: str
    token: uuid.UUID
    claimed_at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True, slots=True)
class ReapedAdaptation:
    """An adaptation whose worker was lost, with its new state."""

    adaptation_id: str
    attempt: int
    state: str


_FIRST_EVENT = text("INSERT INTO adaptation_events (adaptation_id, seq, type) VALUES (:id, 1, 'queued')")


def enqueue(session: Session, adaptation: Adaptation) -> None:
    """Store a new adaptation and its first event."""
    session.add(adaptation)
    session.flush()
    session.execute(_FIRST_EVENT, {"id": adaptation.id})


def append_event(session: Session, adaptation_id: str, event_type: str, data: dict[str, Any] | None = None) -> None:
    """Append the next event. The caller has locked the adaptation's row, so `seq` has no gaps."""
    last = select(func.coalesce(func.max(AdaptationEvent.seq), 0)).where(AdaptationEvent.adaptation_id == adaptation_id)
    seq = session.execute(last).scalar_one() + 1
    session.add(AdaptationEvent(adaptation_id=adaptation_id, seq=seq, type=event_type, data=data or {}))
    session.flush()
    if event_type in FINISHED:
        after_commit(session, metrics.FINISHED.labels(event_type).inc)


def any_queued(session: Session) -> bool:
    """Whether any adaptation is queued."""
    return bool(session.execute(select(exists().where(Adaptation.in_state("queued")))).scalar_one())


def check_leases(session: Session, leases: Sequence[Lease]) -> dict[str, Demand | None]:
    """Return, for each lease that still holds, its adaptation id and what a caller demands of its worker."""
    rows = session.execute(
        select(Adaptation.id, Adaptation.lease_token, Adaptation.cancel_requested, Adaptation.pause_requested).where(
            Adaptation.id.in_([lease.adaptation_id for lease in leases])
        )
    )
    tokens = {lease.adaptation_id: lease.token for lease in leases}
    return {
        row.id: "cancel" if row.cancel_requested else "pause" if row.pause_requested else None
        for row in rows
        if row.lease_token == tokens[row.id]
    }


def renew(
    session: Session,
    lease: Lease,
    *,
    lease_seconds: float,
    step: int,
    steps: int,
    checkpoint: bytes | None,
    event: dict[str, Any] | None,
) -> bool:
    """Renew the lease and store the progress, with the checkpoint and the progress event unless they are None."""
    values: dict[str, Any] = {
        "lease_until": func.now() + timedelta(seconds=lease_seconds),
        "step": step,
        "steps": steps,
    }
    if checkpoint is not None:
        values["checkpoint"] = checkpoint
    renewed = session.execute(
        update(Adaptation)
        .where(Adaptation.id == lease.adaptation_id, Adaptation.lease_token == lease.token)
        .values(values)
        .returning(Adaptation.id)
        .execution_options(synchronize_session=False)
    ).first()
    if renewed is None:
        return False
    if event is not None:
        append_event(session, lease.adaptation_id, "progress", event)
    return True


def succeed(session: Session, lease: Lease, task: "AdaptedTask", *, start: int | None = None) -> bool:
    """Store the task version and finish, or cancel if a cancellation was requested before.

    `start` is `Subspace.initial_vector_id` of the vector.
    """
    # Lock the task before the adaptation, in the order in which deleting a task does, or the two could deadlock.
    locked = select(Task.promotion).where(Task.id == lease.task_id).with_for_update(read=True, key_share=True)
    promotion = session.execute(locked).scalar_one_or_none()
    row = _lock(session, lease)
    if row is None:
        return False
    if row.cancel_requested:
        _cancel(session, row)
        return True
    _finish(row, "succeeded")
    row.metrics = task.metrics
    row.warnings = [*row.warnings, *task.warnings]
    steps_run = task.metrics.get("steps_run")
    if isinstance(steps_run, int):
        row.step = steps_run
    session.add(
        TaskVersion(
            task_id=row.task_id,
            version=row.task_version,
            tenant_id=row.tenant_id,
            adaptation_id=row.id,
            subspace_id=row.subspace_id,
            kind=task.head.kind,
            labels=list(task.head.labels),
            vector=task.head.vector,
            start=start,
            readout=task.head.readout,
            scope=task.head.scope,
            calibration=None if task.head.kind != "text2text" else list(astuple(task.head.calibration)),
        )
    )
    session.flush()
    if task.held_out is not None:
        session.add(HeldOutRow(task_id=row.task_id, version=row.task_version, logits=task.held_out.to_bytes()))
        session.flush()
    if promotion == "if_better":
        figures, doubts = comparison.promote_if_better(session, row, task)
        row.metrics, row.warnings = {**task.metrics, **figures}, [*row.warnings, *doubts]
    append_event(session, row.id, "succeeded", {"metrics": row.metrics, "warnings": row.warnings})
    return True


def fail(session: Session, lease: Lease, error: ErrorDetail) -> bool:
    """Finish without a result."""
    row = _lock(session, lease)
    if row is None:
        return False
    _fail(session, row, error)
    return True


def cancel_running(session: Session, lease: Lease) -> bool:
    """Finish an adaptation whose cancellation was requested and which its worker no longer runs."""
    row = _lock(session, lease)
    if row is None:
        return False
    _cancel(session, row)
    return True


def release(session: Session, lease: Lease, *, reason: str, step: int, checkpoint: bytes | None) -> bool:
    """Requeue an adaptation that did not fail, without counting the attempt."""
    row = _lock(session, lease)
    if row is None:
        return False
    _release(session, row, reason, step, checkpoint)
    return True


def preempt(session: Session, lease: Lease, *, step: int, checkpoint: bytes | None) -> bool:
    """Release an adaptation in favour of others, in the transaction that claims them; never waits for a lock.

    A first attempt keeps its place in its tenant's queue. A retry, which runs alone, goes to the end, because a few
    retries at the head of the queue would preempt each other and starve the rest.

    Raises:
        OperationalError: another transaction holds the row's lock, and waiting for it could deadlock.
    """
    row = _lock(session, lease, nowait=True)
    if row is None:
        return False
    if row.attempt > 1:
        row.queued_at = func.now()
    _release(session, row, "made_way", step, checkpoint)
    return True


def retry(session: Session, lease: Lease, *, max_attempts: int, error: ErrorDetail) -> bool:
    """Requeue an adaptation after an error, or fail it with `error` at the last of `max_attempts` errors."""
    row = _lock(session, lease)
    if row is None:
        return False
    if 1 + _count_requeued(session, row, "error") >= max_attempts and not row.cancel_requested:
        _fail(session, row, error)
    else:
        _requeue(session, row, "error")
    return True


def reap(session: Session, ends: Mapping[str, str] | None = None) -> list[ReapedAdaptation]:
    """Requeue each adaptation whose lease has expired, or fail it after `MAX_LOSSES`; also clear idle tenants.

    Losing a worker is no attempt: machines are restarted and networks fail without any fault of the adaptation's.
    `ends` says how workers ended, by their ids, for the error of an adaptation that fails.
    """
    expired = session.scalars(
        select(Adaptation)
        .where(Adaptation.in_state("running"), Adaptation.lease_until < func.now())
        .order_by(Adaptation.lease_until, Adaptation.id)
        .with_for_update(skip_locked=True)
    ).all()
    for row in expired:
        losses = 1 + _count_requeued(session, row, "worker_lost", from_step=row.step)
        if losses >= MAX_LOSSES and not row.cancel_requested:
            _fail(session, row, workers.lost_error(losses, (ends or {}).get(row.worker_id or "")))
        else:
            _requeue(session, row, "worker_lost")
    turns.clear_idle_tenants(session)
    return [ReapedAdaptation(row.id, row.attempt, row.state) for row in expired]


def expire_leases(session: Session, worker_id: str) -> int:
    """Expire the leases of this worker's dead predecessor, which had the same id, and return their number."""
    expired = session.execute(
        update(Adaptation)
        .where(Adaptation.state == "running", Adaptation.worker_id == worker_id)
        .values(lease_until=func.now() - timedelta(seconds=1))
        .returning(Adaptation.id)
        .execution_options(synchronize_session=False)
    )
    return len(expired.all())


def request_cancel(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    """Cancel an adaptation that no worker runs at once, or request it from the worker that runs the adaptation.

    A finished adaptation does not change.

    Returns:
        The row, locked until the transaction ends, or None if the tenant has no adaptation with this id.
    """
    row = _lock_of_tenant(session, tenant_id, adaptation_id)
    if row is None:
        return None
    if row.state in ("queued", "paused"):
        row.cancel_requested = True
        _cancel(session, row)
        session.refresh(row)
    elif row.state == "running":
        row.cancel_requested = True
        session.flush()
    return row


def request_pause(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    """Pause a queued adaptation at once, or request it from the worker that runs the adaptation.

    The worker stores a checkpoint, from which the adaptation resumes. Otherwise as `request_cancel`.
    """
    row = _lock_of_tenant(session, tenant_id, adaptation_id)
    if row is not None and row.state == "queued":
        row.state = "paused"
        session.flush()
        append_event(session, row.id, "paused", {"step": row.step})
    elif row is not None and row.state == "running":
        row.pause_requested = True
        session.flush()
    return row


def resume(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    """Requeue a paused adaptation in its former place, or withdraw the request; returns as `request_cancel` does."""
    row = _lock_of_tenant(session, tenant_id, adaptation_id)
    if row is not None and row.state == "paused":
        _requeue(session, row, "resumed")
    elif row is not None and row.state == "running":
        row.pause_requested = False
        session.flush()
    return row


def _lock_of_tenant(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    return session.scalars(
        select(Adaptation)
        .where(Adaptation.tenant_id == tenant_id, Adaptation.id == adaptation_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()


def _count_requeued(session: Session, row: Adaptation, reason: str, *, from_step: int = 0) -> int:
    """Return how often an adaptation was requeued for this reason, at this step or a later one."""
    return session.execute(
        select(func.count()).where(
            AdaptationEvent.adaptation_id == row.id,
            AdaptationEvent.type == "requeued",
            AdaptationEvent.data["reason"].astext == reason,
            AdaptationEvent.data["step"].as_integer() >= from_step,
        )
    ).scalar_one()


def _lock(session: Session, lease: Lease, *, nowait: bool = False) -> Adaptation | None:
    return session.scalars(
        select(Adaptation)
        .where(
            Adaptation.id == lease.adaptation_id,
            Adaptation.lease_token == lease.token,
            Adaptation.state == "running",
        )
        .with_for_update(nowait=nowait)
    ).one_or_none()


def _finish(row: Adaptation, state: State) -> None:
    row.state = state
    row.finished_at = func.now()
    row.checkpoint = None
    _clear_lease(row)


def _clear_lease(row: Adaptation) -> None:
    row.lease_token = None
    row.lease_until = None
    row.worker_id = None


def _cancel(session: Session, row: Adaptation) -> None:
    _finish(row, "cancelled")
    session.flush()
    append_event(session, row.id, "cancelled")


def _fail(session: Session, row: Adaptation, error: ErrorDetail) -> None:
    _finish(row, "failed")
    row.error = error.model_dump()
    session.flush()
    append_event(session, row.id, "failed", {"error": error.model_dump()})


def _release(session: Session, row: Adaptation, reason: str, step: int, checkpoint: bytes | None) -> None:
    row.attempt -= 1
    row.step = step
    if checkpoint is not None:
        row.checkpoint = checkpoint
    _requeue(session, row, reason)


def _requeue(session: Session, row: Adaptation, reason: str) -> None:
    """Requeue an adaptation, or pause it if that was requested, or cancel it if a cancellation was requested."""
    if row.cancel_requested:
        _cancel(session, row)
        return
    # Only one UPDATE: a second one in a transaction checks the foreign keys again. That locks the task after the
    # adaptation, while deleting a task locks them in the other order.
    pauses = row.pause_requested
    row.state = "paused" if pauses else "queued"
    row.pause_requested = False
    _clear_lease(row)
    session.flush()
    append_event(session, row.id, "requeued", {"reason": reason, "attempt": row.attempt, "step": row.step})
    if pauses:
        append_event(session, row.id, "paused", {"step": row.step})
