"""The SQL that moves an adaptation through its life: queue, report, give back, finish, cancel, reap.

Every function works inside its caller's transaction and commits nothing. Whoever holds an adaptation proves it with
the `Lease` that `claiming` gave out: a row whose token has changed belongs to somebody else, and the answer is `False`.
Leases are counted on the database's clock alone.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
from sqlalchemy import exists, func, select, text, update
from sqlalchemy.orm import Session

from app.db.models import FINISHED, Adaptation, AdaptationEvent, State, Task, TaskVersion
from app.db.session import after_commit
from app.queue import metrics, turns

# The shape that the API gives to every error: {"message", "type", "param", "code"}.
ErrorBody = dict[str, str | None]

WORKER_LOST: ErrorBody = {
    "message": "Every worker that took this adaptation up was lost before it was done. Please try again, "
    "and with fewer or shorter examples should it happen again.",
    "type": "internal_error",
    "param": None,
    "code": "worker_lost",
}


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one adaptation for as long as nobody else was given its row."""

    adaptation_id: str
    task_id: str
    token: uuid.UUID
    taken_at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a tuned adaptation leaves behind; `vector` is [D], and `start` as `Subspace.initial_vector_id` tells it."""

    vector: np.ndarray[Any, np.dtype[np.float32]]
    readout: bytes | None
    labels: Sequence[str]
    kind: str
    metrics: dict[str, Any]
    warnings: Sequence[str]
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Reaped:
    """An adaptation whose worker was lost, and the state it is in now."""

    adaptation_id: str
    attempt: int
    state: str


_FIRST_EVENT = text("INSERT INTO adaptation_events (adaptation_id, seq, type) VALUES (:id, 1, 'queued')")


def enqueue(session: Session, adaptation: Adaptation) -> None:
    """Store a new adaptation, and its first event."""
    session.add(adaptation)
    session.flush()
    session.execute(_FIRST_EVENT, {"id": adaptation.id})


def append_event(session: Session, adaptation_id: str, event_type: str, data: dict[str, Any] | None = None) -> None:
    """Add the next event. The caller has locked the adaptation's row, so numbers have no gaps."""
    last = select(func.coalesce(func.max(AdaptationEvent.seq), 0)).where(AdaptationEvent.adaptation_id == adaptation_id)
    seq = session.execute(last).scalar_one() + 1
    session.add(AdaptationEvent(adaptation_id=adaptation_id, seq=seq, type=event_type, data=data or {}))
    session.flush()
    if event_type in FINISHED:
        after_commit(session, metrics.FINISHED.labels(event_type).inc)


def any_queued(session: Session) -> bool:
    """Whether some adaptation waits for a worker."""
    return bool(session.execute(select(exists().where(Adaptation.state == "queued"))).scalar_one())


def held(session: Session, leases: Sequence[Lease]) -> dict[str, bool]:
    """Which of these leases still hold, by adaptation id, and whether each one's cancellation was asked for."""
    rows = session.execute(
        select(Adaptation.id, Adaptation.lease_token, Adaptation.cancel_requested).where(
            Adaptation.id.in_([lease.adaptation_id for lease in leases])
        )
    )
    tokens = {lease.adaptation_id: lease.token for lease in leases}
    return {row.id: row.cancel_requested for row in rows if row.lease_token == tokens[row.id]}


def report(
    session: Session,
    lease: Lease,
    *,
    lease_seconds: float,
    step: int,
    steps: int,
    checkpoint: bytes | None,
    event: dict[str, Any] | None,
) -> bool:
    """Renew the lease because the work went on; keep the checkpoint and the progress event where there are such."""
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


def succeed(session: Session, lease: Lease, tuned: Tuned) -> bool:
    """Keep the task version and finish, in one; a cancellation that came before this wins."""
    # Deleting a task locks the task first and its adaptations after; the other order here could deadlock with it.
    session.execute(select(Task.id).where(Task.id == lease.task_id).with_for_update(read=True, key_share=True))
    row = _locked(session, lease)
    if row is None:
        return False
    if row.cancel_requested:
        _end(row, "cancelled")
        session.flush()
        append_event(session, row.id, "cancelled")
        return True
    _end(row, "succeeded")
    row.metrics = tuned.metrics
    row.warnings = [*row.warnings, *tuned.warnings]
    row.step = tuned.metrics.get("steps_run", row.step)
    session.add(
        TaskVersion(
            task_id=row.task_id,
            version=row.task_version,
            tenant_id=row.tenant_id,
            adaptation_id=row.id,
            subspace_id=row.subspace_id,
            kind=tuned.kind,
            labels=list(tuned.labels),
            vector=tuned.vector,
            start=tuned.start,
            readout=tuned.readout,
        )
    )
    session.flush()
    append_event(session, row.id, "succeeded", {"metrics": tuned.metrics, "warnings": row.warnings})
    return True


def fail(session: Session, lease: Lease, error: ErrorBody) -> bool:
    """Finish without a result, for good."""
    row = _locked(session, lease)
    if row is None:
        return False
    _fail(session, row, error)
    return True


def cancel_running(session: Session, lease: Lease) -> bool:
    """Finish an adaptation whose cancellation was asked for and whose worker has let go of it."""
    row = _locked(session, lease)
    if row is None:
        return False
    _end(row, "cancelled")
    session.flush()
    append_event(session, row.id, "cancelled")
    return True


def hand_back(session: Session, lease: Lease, *, reason: str, step: int, checkpoint: bytes | None) -> bool:
    """Queue an adaptation again whose worker stops through no fault of its own: the attempt does not count."""
    row = _locked(session, lease)
    if row is None:
        return False
    _hand_back(session, row, reason, step, checkpoint)
    return True


def make_way(session: Session, lease: Lease, *, step: int, checkpoint: bytes | None) -> bool:
    """Hand back an adaptation for others to run, in the transaction that has claimed them; it waits for no lock.

    A first attempt keeps its place in its tenant's queue. A later one, which keeps all others from running while it
    does, goes to the end, or else a few of them would take turns with each other alone.

    Raises:
        OperationalError: somebody else, who may be waiting for what was claimed, has the row at this moment.
    """
    row = _locked(session, lease, nowait=True)
    if row is None:
        return False
    _hand_back(session, row, "made_way", step, checkpoint)
    if row.attempt > 0:
        row.queued_at = func.now()
    return True


def retry(session: Session, lease: Lease, *, max_attempts: int, error: ErrorBody) -> bool:
    """Queue an adaptation again after an attempt that went wrong, or fail it with `error` when that was the last."""
    row = _locked(session, lease)
    if row is None:
        return False
    if row.attempt >= max_attempts and not row.cancel_requested:
        _fail(session, row, error)
    else:
        _queue_again(session, row, "error")
    return True


def reap(session: Session, *, max_attempts: int) -> list[Reaped]:
    """Queue again, or fail at `max_attempts`, whatever has an expired lease: its worker was lost.

    Tenants who have nothing left are taken from among those who wait.
    """
    expired = session.scalars(
        select(Adaptation)
        .where(Adaptation.state == "running", Adaptation.lease_until < func.now())
        .order_by(Adaptation.lease_until)
        .with_for_update(skip_locked=True)
    ).all()
    for row in expired:
        if row.attempt >= max_attempts and not row.cancel_requested:
            _fail(session, row, WORKER_LOST)
        else:
            _queue_again(session, row, "worker_lost")
    turns.forget_idle(session)
    return [Reaped(row.id, row.attempt, row.state) for row in expired]


def expire_leases(session: Session, worker_id: str) -> int:
    """Expire what this worker's own predecessor held: its supervisor knows that it is dead, so nobody need wait."""
    expired = session.execute(
        update(Adaptation)
        .where(Adaptation.state == "running", Adaptation.worker_id == worker_id)
        .values(lease_until=func.now() - timedelta(seconds=1))
        .returning(Adaptation.id)
        .execution_options(synchronize_session=False)
    )
    return len(expired.all())


def request_cancel(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    """Cancel what is queued at once, and ask the worker of what is running; what has ended stays as it is.

    Returns the row, locked until the transaction ends, or None when the tenant has no such adaptation.
    """
    row = session.scalars(
        select(Adaptation)
        .where(Adaptation.tenant_id == tenant_id, Adaptation.id == adaptation_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        return None
    if row.state == "queued":
        row.cancel_requested = True
        _end(row, "cancelled")
        session.flush()
        append_event(session, row.id, "cancelled")
        session.refresh(row)
    elif row.state == "running":
        row.cancel_requested = True
        session.flush()
    return row


def _locked(session: Session, lease: Lease, *, nowait: bool = False) -> Adaptation | None:
    return session.scalars(
        select(Adaptation)
        .where(
            Adaptation.id == lease.adaptation_id,
            Adaptation.lease_token == lease.token,
            Adaptation.state == "running",
        )
        .with_for_update(nowait=nowait)
    ).one_or_none()


def _end(row: Adaptation, state: State) -> None:
    row.state = state
    row.finished_at = func.now()
    row.checkpoint = None
    _release(row)


def _release(row: Adaptation) -> None:
    row.lease_token = None
    row.lease_until = None
    row.worker_id = None


def _fail(session: Session, row: Adaptation, error: ErrorBody) -> None:
    _end(row, "failed")
    row.error = dict(error)
    session.flush()
    append_event(session, row.id, "failed", {"error": error})


def _hand_back(session: Session, row: Adaptation, reason: str, step: int, checkpoint: bytes | None) -> None:
    row.attempt -= 1
    row.step = step
    if checkpoint is not None:
        row.checkpoint = checkpoint
    _queue_again(session, row, reason)


def _queue_again(session: Session, row: Adaptation, reason: str) -> None:
    """Back to the queue; one that was to be cancelled has nobody left to stop, and ends here."""
    if row.cancel_requested:
        _end(row, "cancelled")
        session.flush()
        append_event(session, row.id, "cancelled")
        return
    row.state = "queued"
    _release(row)
    session.flush()
    append_event(session, row.id, "requeued", {"reason": reason, "attempt": row.attempt, "step": row.step})
