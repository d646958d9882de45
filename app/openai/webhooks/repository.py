"""Queries on a tenant's webhook endpoints, and the outbox of messages to them.

Triggers fill the outbox in the transaction that ends a job or a batch (migration 0024), whatever process runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, delete, func, select, text, update
from sqlalchemy.orm import Session

from app.db.webhook_models import WebhookDelivery, WebhookEndpoint

# One message of a tenant at a time, so that a receiver that does not answer delays no other tenant's messages.
_CLAIM = text("""
WITH next AS (
    SELECT endpoint_id, event_id FROM webhook_deliveries AS due
    WHERE due_at <= now() AND (lease_until IS NULL OR lease_until <= now()) AND NOT EXISTS (
        SELECT FROM webhook_deliveries AS leased WHERE leased.tenant_id = due.tenant_id AND leased.lease_until > now()
    )
    ORDER BY due_at, event_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries AS claimed SET lease_until = now() + :lease, attempts = attempts + 1
FROM next JOIN webhook_endpoints AS endpoint ON endpoint.id = next.endpoint_id
WHERE claimed.endpoint_id = next.endpoint_id AND claimed.event_id = next.event_id
RETURNING claimed.endpoint_id, claimed.event_id, claimed.type, claimed.object_id, claimed.created_at,
    now() - claimed.created_at, claimed.attempts, endpoint.url, endpoint.secret,
    CASE WHEN endpoint.former_secret_until > now() THEN endpoint.former_secret END AS former_secret
""")


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A message to send; `attempts` counts this attempt, and identifies the claim."""

    endpoint_id: str
    event_id: str
    type: str
    object_id: str
    created_at: datetime
    age: timedelta
    attempts: int
    url: str
    secret: str
    former_secret: str | None

    @property
    def secrets(self) -> list[str]:
        """The secrets to sign with."""
        return [self.secret] if self.former_secret is None else [self.secret, self.former_secret]


def of_tenant(tenant_id: str) -> Select[WebhookEndpoint]:
    """Select a tenant's endpoints."""
    return select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id)


def get(session: Session, tenant_id: str, endpoint_id: str, *, lock: bool = False) -> WebhookEndpoint | None:
    """Return one endpoint, None if the tenant has no such endpoint."""
    query = of_tenant(tenant_id).where(WebhookEndpoint.id == endpoint_id)
    return session.scalar(query.with_for_update() if lock else query)


def count(session: Session, tenant_id: str) -> int:
    """Return the number of a tenant's endpoints; locks it until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"webhooks\n{tenant_id}", 0))))
    return session.scalar(of_tenant(tenant_id).with_only_columns(func.count())) or 0


def remove(session: Session, tenant_id: str, endpoint_id: str) -> bool:
    """Delete an endpoint with its messages; False if the tenant has no such endpoint."""
    of_id = (WebhookEndpoint.tenant_id == tenant_id, WebhookEndpoint.id == endpoint_id)
    return session.scalar(delete(WebhookEndpoint).where(*of_id).returning(WebhookEndpoint.id)) is not None


def claim(session: Session, limit: int, lease_seconds: float) -> Sequence[ClaimedDelivery]:
    """Lease the messages that are due, at most `limit` and at most one of each tenant."""
    claimed: list[ClaimedDelivery] = []
    while len(claimed) < limit:
        row = session.execute(_CLAIM, {"lease": timedelta(seconds=lease_seconds)}).one_or_none()
        if row is None:
            break
        claimed.append(ClaimedDelivery(*row))
    return claimed


def remove_delivery(session: Session, delivery: ClaimedDelivery) -> None:
    """Delete a message that its receiver has accepted, or that is given up."""
    session.execute(delete(WebhookDelivery).where(*_is(delivery)))


def postpone(session: Session, delivery: ClaimedDelivery, wait: timedelta) -> None:
    """End the lease of a message that is tried again after `wait`."""
    values = {"lease_until": None, "due_at": func.now() + wait}
    session.execute(update(WebhookDelivery).where(*_is(delivery)).values(values))


def record_error(session: Session, endpoint_id: str, error: str | None) -> None:
    """Store why the last attempt failed; None if it did not."""
    of_id = (WebhookEndpoint.id == endpoint_id, WebhookEndpoint.last_error.is_distinct_from(error))
    session.execute(update(WebhookEndpoint).where(*of_id).values(last_error=error))


def _is(delivery: ClaimedDelivery) -> tuple[ColumnElement[bool], ...]:
    return (
        WebhookDelivery.endpoint_id == delivery.endpoint_id,
        WebhookDelivery.event_id == delivery.event_id,
        WebhookDelivery.attempts == delivery.attempts,
    )
