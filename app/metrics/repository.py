"""The queue as the database has it."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Row, Select, func, select, text
from sqlalchemy.orm import Session

from app.db.models import Adaptation, Worker
from app.queue.workers import LIVE_SECONDS


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many adaptations wait and run, for how long the oldest of each has, and how many workers live.

    It is the time since the one was created, and since the other was first taken up; 0 without one.
    """

    queued: int
    running: int
    queued_seconds: float
    running_seconds: float
    workers: int


def queue_state(session: Session) -> QueueState:
    """Read in one query, which looks at what is queued or running, however many adaptations have finished."""
    row: Row[int, int, float, float, int] = session.execute(queue_query()).one()
    queued, running, queued_seconds, running_seconds, workers = row
    return QueueState(queued, running, float(queued_seconds), float(running_seconds), workers)


def queue_query() -> Select[int, int, float, float, int]:
    """Columns as in `QueueState`. The states are written out, since only so the planner knows the partial indexes."""
    queued, running = text("state = 'queued'"), text("state = 'running'")
    count = select(func.count()).select_from(Adaptation)
    waiting_since = select(func.min(Adaptation.created_at)).where(queued).scalar_subquery()
    running_since = select(func.min(Adaptation.started_at)).where(running).scalar_subquery()
    live = Worker.seen_at > func.now() - timedelta(seconds=LIVE_SECONDS)
    return select(
        count.where(queued).scalar_subquery(),
        count.where(running).scalar_subquery(),
        *(
            func.greatest(func.coalesce(func.extract("epoch", func.now() - since), 0), 0)
            for since in (waiting_since, running_since)
        ),
        select(func.count()).select_from(Worker).where(live).scalar_subquery(),
    )
