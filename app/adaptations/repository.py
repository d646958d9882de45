"""Rows of `adaptations`, their events and datasets, as a tenant sees them; what workers do is in `lifecycle`."""

import hashlib

from sqlalchemy import Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.models import Adaptation, AdaptationEvent, Dataset

# Each state by itself has its index; both at once would read all that the tenant ever had.
_COUNT_OPEN = text("""
SELECT (SELECT count(*) FROM adaptations WHERE tenant_id = :tenant_id AND state = 'queued')
    + (SELECT count(*) FROM adaptations WHERE tenant_id = :tenant_id AND state = 'running')
""")


def of_tenant(tenant_id: str, state: str | None = None, task_id: str | None = None) -> Select[Adaptation]:
    """A tenant's adaptations, for a list."""
    query = select(Adaptation).where(Adaptation.tenant_id == tenant_id)
    if state is not None:
        query = query.where(Adaptation.in_state(state))
    if task_id is not None:
        query = query.where(Adaptation.task_id == task_id)
    return query


def get(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    """One adaptation, if it is the tenant's."""
    return session.scalar(of_tenant(tenant_id).where(Adaptation.id == adaptation_id))


def count_open(session: Session, tenant_id: str) -> int:
    """How many of a tenant's adaptations have not ended.

    Requests of the tenant wait here for each other's commit, so that the count holds until the caller's own.
    """
    _wait_for_turn(session, tenant_id)
    count: int = session.execute(_COUNT_OPEN, {"tenant_id": tenant_id}).scalar_one()
    return count


def by_idempotency_key(session: Session, tenant_id: str, key: str) -> Adaptation | None:
    """What an earlier request with this key made; requests with the same key wait here for each other's commit."""
    _wait_for_turn(session, f"{tenant_id}\0{key}")
    return session.scalar(of_tenant(tenant_id).where(Adaptation.idempotency_key == key))


def keep_dataset(
    session: Session,
    tenant_id: str,
    content_hash: str,
    examples: list[dict[str, str]],
    validation_examples: list[dict[str, str]] | None,
) -> str:
    """The id of the tenant's dataset of this content, which is added if it is new.

    The row is locked until the transaction ends, so that nobody deletes it as unused in between.
    """
    made = insert(Dataset).values(
        id=new_id("dat"),
        tenant_id=tenant_id,
        content_hash=content_hash,
        examples=examples,
        validation_examples=validation_examples,
    )
    # Updating a column to itself is what makes a conflict return, and lock, the row that is there.
    kept = made.on_conflict_do_update(
        index_elements=[Dataset.tenant_id, Dataset.content_hash], set_={"content_hash": made.excluded.content_hash}
    )
    return session.execute(kept.returning(Dataset.id)).scalar_one()


def events(
    session: Session, tenant_id: str, adaptation_id: str, *, after: int, limit: int
) -> tuple[list[AdaptationEvent], bool]:
    """Events with a number above `after`, oldest first, and whether more follow; none of another tenant's."""
    of_adaptation = (AdaptationEvent.adaptation_id == adaptation_id, Adaptation.tenant_id == tenant_id)
    rows = list(
        session.scalars(
            select(AdaptationEvent)
            .join(Adaptation, Adaptation.id == AdaptationEvent.adaptation_id)
            .where(*of_adaptation, AdaptationEvent.seq > after)
            .order_by(AdaptationEvent.seq)
            .limit(limit + 1)
        )
    )
    return rows[:limit], len(rows) > limit


def _wait_for_turn(session: Session, name: str) -> None:
    """Wait until no other transaction has a lock of this name, and have it until this one ends."""
    lock = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    session.execute(select(func.pg_advisory_xact_lock(lock)))
