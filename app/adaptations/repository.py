"""Queries on a tenant's adaptations, their events and datasets; the queries of workers are in `app.queue`."""

import hashlib
from dataclasses import dataclass

from sqlalchemy import Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.models import Adaptation, AdaptationEvent, Dataset

# Each state has its own partial index; one query for all states would read every row of the tenant.
_USAGE = text("""
SELECT (SELECT count(*) FROM adaptations WHERE tenant_id = :tenant_id AND state = 'queued')
    + (SELECT count(*) FROM adaptations WHERE tenant_id = :tenant_id AND state = 'running')
    + (SELECT count(*) FROM adaptations WHERE tenant_id = :tenant_id AND state = 'paused') AS open,
    (SELECT count(*) FROM adaptations WHERE tenant_id = :tenant_id) AS stored,
    (SELECT coalesce(sum(size), 0) FROM datasets WHERE tenant_id = :tenant_id) AS bytes
""")


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's unfinished adaptations, all of its adaptations, and the bytes of its datasets."""

    open: int
    stored: int
    bytes: int


def of_tenant(tenant_id: str, state: str | None = None, task_id: str | None = None) -> Select[Adaptation]:
    """Select a tenant's adaptations, optionally only those in one state or of one task."""
    query = select(Adaptation).where(Adaptation.tenant_id == tenant_id)
    if state is not None:
        query = query.where(Adaptation.in_state(state))
    if task_id is not None:
        query = query.where(Adaptation.task_id == task_id)
    return query


def get(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    """Return one adaptation, None if the tenant has no such adaptation."""
    return session.scalar(of_tenant(tenant_id).where(Adaptation.id == adaptation_id))


def usage(session: Session, tenant_id: str) -> Usage:
    """Return what a tenant has stored.

    Locks the tenant until the transaction ends, so that no concurrent request changes the counts.
    """
    _lock_name(session, tenant_id)
    row = session.execute(_USAGE, {"tenant_id": tenant_id}).one()
    return Usage(row.open, row.stored, int(row.bytes))


def by_idempotency_key(session: Session, tenant_id: str, key: str) -> Adaptation | None:
    """Return the adaptation that an earlier request with this key created; locks the key until the transaction ends."""
    _lock_name(session, f"{tenant_id}\0{key}")
    return session.scalar(of_tenant(tenant_id).where(Adaptation.idempotency_key == key))


def keep_dataset(
    session: Session,
    tenant_id: str,
    content_hash: str,
    examples: list[dict[str, str]],
    validation_examples: list[dict[str, str]] | None,
) -> str:
    """Return the id of the tenant's dataset with this content; insert it if it is new.

    Locks the row until the transaction ends, so that no concurrent request deletes it as unused.
    """
    insertion = insert(Dataset).values(
        id=new_id("dat"),
        tenant_id=tenant_id,
        content_hash=content_hash,
        examples=examples,
        validation_examples=validation_examples,
        size=sum(len(text.encode()) for row in (*examples, *(validation_examples or ())) for text in row.values()),
    )
    # On a conflict, only an update returns and locks the existing row, so set a column to its own value.
    upsert = insertion.on_conflict_do_update(
        index_elements=[Dataset.tenant_id, Dataset.content_hash],
        set_={"content_hash": insertion.excluded.content_hash},
    )
    return session.execute(upsert.returning(Dataset.id)).scalar_one()


def dataset_of(session: Session, tenant_id: str, adaptation_id: str) -> tuple[Dataset, Adaptation]:
    """Return the dataset of one of the tenant's adaptations, and the adaptation."""
    query = of_tenant(tenant_id).add_columns(Dataset).join(Dataset, Dataset.id == Adaptation.dataset_id)
    adaptation, dataset = session.execute(query.where(Adaptation.id == adaptation_id)).one()
    return dataset, adaptation


def newest_version(session: Session, tenant_id: str, task_id: str, *, before: int | None = None) -> int | None:
    """Return the number of the task's newest version (below `before`) that can answer or is still to be tuned."""
    versions = of_tenant(tenant_id, task_id=task_id).where(Adaptation.state.not_in(("failed", "cancelled")))
    if before is not None:
        versions = versions.where(Adaptation.task_version < before)
    return session.scalar(versions.with_only_columns(func.max(Adaptation.task_version)))


def events(
    session: Session, tenant_id: str, adaptation_id: str, *, after: int, limit: int
) -> tuple[list[AdaptationEvent], bool]:
    """Return the tenant's events after number `after`, oldest first, and whether more follow."""
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


def _lock_name(session: Session, name: str) -> None:
    """Take an exclusive advisory lock on a name until the transaction ends."""
    lock = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    session.execute(select(func.pg_advisory_xact_lock(lock)))
