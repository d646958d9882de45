"""SQL for the state of the queue."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Row, Select, func, select, text
from sqlalchemy.orm import Session

from app.db.models import Adaptation, Worker
from app.queue.workers import LIVE_SECONDS


@dataclass(frozen=True, slots=True)
class QueueState:
    """The numbers of queued and running adaptations and of live workers, and two ages.

    `queued_seconds` is the time since the oldest queued adaptation was created, `running_seconds` the time since the
    oldest running one was first claimed. Each is 0 if there is no such adaptation.
    """

    queued: int
    running: int
    queued_seconds: float
    running_seconds: float
    workers: int


def queue_state(session: Session) -> QueueState:
    """Read the state in one query, whose cost does not depend on the number of finished adaptations."""
    row: Row[int, int, float, float, int] = session.execute(queue_query()).one()
    queued, running, queued_seconds, running_seconds, workers = row
    return QueueState(queued, running, float(queued_seconds), float(running_seconds), workers)


def queue_query() -> Select[int, int, float, float, int]:
    """Return the query for the fields of `QueueState`. Literal states let the planner use the partial indexes."""
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
