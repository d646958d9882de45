"""SQL for the state of the queue and of the outbox."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, ScalarSelect, Select, func, select, text
from sqlalchemy.orm import Session

from app.db.models import Adaptation, Worker
from app.db.webhook_models import WebhookDelivery
from app.queue.workers import LIVE_SECONDS


@dataclass(frozen=True, slots=True)
class QueueState:
    """The numbers of queued and running adaptations, of live workers and of webhooks in the outbox, and their ages.

    `queued_seconds` is the time since the oldest queued adaptation was created, `running_seconds` the time since the
    oldest running one was first claimed, `webhook_seconds` the age of the oldest message. Each is 0 without any.
    """

    queued: int
    running: int
    queued_seconds: float
    running_seconds: float
    workers: int
    webhooks: int
    webhook_seconds: float


def queue_state(session: Session) -> QueueState:
    """Read the state in two queries, whose cost does not depend on the number of finished adaptations."""
    row: Row[int, int, float, float, int] = session.execute(queue_query()).one()
    queued, running, queued_seconds, running_seconds, workers = row
    outbox = select(func.count(), _age(func.min(WebhookDelivery.created_at))).select_from(WebhookDelivery)
    webhooks, webhook_seconds = session.execute(outbox).one()
    ages = (float(queued_seconds), float(running_seconds))
    return QueueState(queued, running, *ages, workers, webhooks, float(webhook_seconds))


def queue_query() -> Select[int, int, float, float, int]:
    """Return the query for adaptations and workers. Literal states let the planner use the partial indexes."""
    queued, running = text("state = 'queued'"), text("state = 'running'")
    count = select(func.count()).select_from(Adaptation)
    waiting_since = select(func.min(Adaptation.created_at)).where(queued).scalar_subquery()
    running_since = select(func.min(Adaptation.started_at)).where(running).scalar_subquery()
    live = Worker.seen_at > func.now() - timedelta(seconds=LIVE_SECONDS)
    return select(
        count.where(queued).scalar_subquery(),
        count.where(running).scalar_subquery(),
        _age(waiting_since),
        _age(running_since),
        select(func.count()).select_from(Worker).where(live).scalar_subquery(),
    )


def _age(since: ColumnElement[Any] | ScalarSelect[Any]) -> ColumnElement[float]:
    return func.greatest(func.coalesce(func.extract("epoch", func.now() - since), 0), 0)
