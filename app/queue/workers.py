"""Rows of `workers`: each worker refreshes its own row, and counts as live for `LIVE_SECONDS` after that."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.models import Worker
from app.errors import ErrorDetail

LIVE_SECONDS = 60.0
"""A worker is gone this long after its last announcement; an idle one announces at least every `reap_seconds`."""
_KEEP_GONE = timedelta(days=1)


def announce(session: Session, worker_id: str, subspace_ids: Sequence[str], jobs: int) -> None:
    """Record that this worker is live and tunes in these subspaces, its own first; none until it has loaded its own."""
    values = {
        "subspace_id": subspace_ids[0] if subspace_ids else None,
        "further_subspace_ids": list(subspace_ids[1:]),
        "jobs": jobs,
        "seen_at": func.now(),
    }
    session.execute(
        insert(Worker).values(id=worker_id, **values).on_conflict_do_update(index_elements=[Worker.id], set_=values)
    )


def remove(session: Session, worker_id: str) -> None:
    """Delete the row of a worker that ends, and rows that killed workers left more than a day ago."""
    session.execute(delete(Worker).where(or_(Worker.id == worker_id, Worker.seen_at < func.now() - _KEEP_GONE)))


def count_serving(session: Session, subspace_id: str) -> int:
    """Return how many live workers tune in this subspace, or have loaded none yet and may load this one."""
    may_serve = or_(
        Worker.subspace_id == subspace_id,
        Worker.subspace_id.is_(None),
        Worker.further_subspace_ids.any_() == subspace_id,
    )
    return session.execute(select(func.count()).select_from(Worker).where(_live(), may_serve)).scalar_one()


def served_subspaces(session: Session) -> set[str]:
    """Return the subspaces in which live workers tune."""
    rows = session.execute(select(Worker.subspace_id, Worker.further_subspace_ids).where(_live()))
    return {subspace_id for row in rows for subspace_id in (row.subspace_id, *row.further_subspace_ids) if subspace_id}


def _live() -> ColumnElement[bool]:
    return Worker.seen_at > func.now() - timedelta(seconds=LIVE_SECONDS)


def lost_error(losses: int, end: str | None) -> ErrorDetail:
    """Return the error of an adaptation that lost so many workers in a row; `end` says how the last one ended."""
    how = f"the last one {end}" if end else "they were killed or cut off from the database"
    return ErrorDetail(
        message=f"{losses} workers in a row that ran this adaptation were lost at the same step: {how}. If memory "
        "ran out, use fewer or shorter examples. The log of the workers has more; then try again.",
        type="internal_error",
        param=None,
        code="worker_lost",
    )
