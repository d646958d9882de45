"""Rows of `workers`: each says of itself that it is there, and is not believed for longer than `LIVE_SECONDS`."""

from datetime import timedelta

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.models import Worker

LIVE_SECONDS = 60.0
"""After so long without a word a worker counts as gone. Idle ones say a word every `reap_seconds` at the latest."""
_KEPT = timedelta(days=1)


def announce(session: Session, worker_id: str, subspace_id: str | None, jobs: int) -> None:
    """Say that this worker is there; `subspace_id` is None as long as it has loaded none."""
    said = {"subspace_id": subspace_id, "jobs": jobs, "seen_at": func.now()}
    session.execute(
        insert(Worker).values(id=worker_id, **said).on_conflict_do_update(index_elements=[Worker.id], set_=said)
    )


def leave(session: Session, worker_id: str) -> None:
    """Say that this worker ends; and clear away those that could not say it, a day later."""
    session.execute(delete(Worker).where(or_(Worker.id == worker_id, Worker.seen_at < func.now() - _KEPT)))


def serving(session: Session, subspace_id: str) -> int:
    """How many workers tune in this subspace, or have loaded none yet and may."""
    live = Worker.seen_at > func.now() - timedelta(seconds=LIVE_SECONDS)
    may = or_(Worker.subspace_id == subspace_id, Worker.subspace_id.is_(None))
    return session.execute(select(func.count()).select_from(Worker).where(live, may)).scalar_one()
