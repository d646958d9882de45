"""Queries on batches and their requests, and the turns in which processes answer them."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Select, and_, delete, func, or_, select, text
from sqlalchemy.orm import Session, aliased

from app.db.file_models import Batch, BatchRequestRow, BatchState
from app.db.ids import new_id
from app.openai.batches.requests import BatchRequest

OPEN: tuple[BatchState, ...] = ("in_progress", "cancelling")
_ROWS_AT_ONCE = 500

_INSERT = text("""
INSERT INTO batch_requests (batch_id, line, custom_id, body)
SELECT :batch_id, * FROM unnest(CAST(:lines AS int[]), CAST(:custom_ids AS text[]), CAST(:bodies AS text[]))
""")
_ANSWER = text("""
UPDATE batch_requests SET status = answered.status, response = answered.response
FROM unnest(CAST(:lines AS int[]), CAST(:statuses AS int[]), CAST(:responses AS text[]))
    AS answered (line, status, response)
WHERE batch_id = :batch_id AND batch_requests.line = answered.line
""")


@dataclass(frozen=True, slots=True)
class Answered:
    """The response to a request of a batch, as JSON."""

    line: int
    status: int
    response: str


def of_tenant(tenant_id: str) -> Select[Batch]:
    """Select a tenant's batches."""
    return select(Batch).where(Batch.tenant_id == tenant_id)


def get(session: Session, tenant_id: str, batch_id: str, *, lock: bool = False) -> Batch | None:
    """Return one batch, None if the tenant has no such batch."""
    query = of_tenant(tenant_id).where(Batch.id == batch_id)
    return session.scalar(query.with_for_update() if lock else query)


def count_open(session: Session, tenant_id: str) -> int:
    """Count a tenant's unfinished batches; locks the tenant's batches until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"batches\n{tenant_id}", 0))))
    open_batches = select(func.count()).where(Batch.tenant_id == tenant_id, Batch.state.in_(OPEN))
    return session.execute(open_batches).scalar_one()


def add(
    session: Session,
    tenant_id: str,
    *,
    endpoint: str,
    input_file_id: str,
    metadata: dict[str, str],
    requests: Sequence[BatchRequest],
    lifetime: timedelta,
) -> Batch:
    """Insert a batch and its requests."""
    batch = Batch(
        id=new_id("batch"),
        tenant_id=tenant_id,
        endpoint=endpoint,
        input_file_id=input_file_id,
        metadata_=metadata,
        total=len(requests),
        expires_at=func.now() + lifetime,
    )
    session.add(batch)
    session.flush()
    session.refresh(batch)
    for start in range(0, len(requests), _ROWS_AT_ONCE):
        part = requests[start : start + _ROWS_AT_ONCE]
        values = {
            "lines": [request.line for request in part],
            "custom_ids": [request.custom_id for request in part],
            "bodies": [request.body for request in part],
        }
        session.execute(_INSERT, {"batch_id": batch.id} | values)
    return batch


def claim(session: Session, lease_seconds: float) -> Batch | None:
    """Lease and return the batch whose tenant has waited the longest, or None if no batch is free.

    Batches that another process has leased are skipped, unless the lease has expired.
    """
    same_tenant = aliased(Batch)
    tenant_served_at = (
        select(func.max(same_tenant.served_at)).where(same_tenant.tenant_id == Batch.tenant_id).scalar_subquery()
    )
    free = or_(Batch.lease_until.is_(None), Batch.lease_until < func.now())
    batch = session.scalar(
        select(Batch)
        .where(Batch.state.in_(OPEN), free)
        .order_by(tenant_served_at.nulls_first(), Batch.created_at, Batch.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Batch)
    )
    if batch is not None:
        batch.lease_token = uuid.uuid4()
        batch.lease_until = func.now() + timedelta(seconds=lease_seconds)
        batch.served_at = func.now()
        session.flush()
        session.refresh(batch)
    return batch


def lock_leased(session: Session, batch: Batch) -> Batch | None:
    """Lock and return the row of a claimed batch, None if its lease was lost or the batch deleted."""
    query = select(Batch).where(Batch.id == batch.id, Batch.lease_token == batch.lease_token).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def has_expired(session: Session, batch: Batch) -> bool:
    """Return whether the completion window of a batch is over, by the database's clock."""
    return session.execute(select(Batch.expires_at <= func.now()).where(Batch.id == batch.id)).scalar_one()


def unanswered(session: Session, batch_id: str, limit: int) -> Sequence[BatchRequestRow]:
    """Return the first requests of a batch that have no response yet."""
    rows = select(BatchRequestRow).where(BatchRequestRow.batch_id == batch_id, BatchRequestRow.status.is_(None))
    return session.scalars(rows.order_by(BatchRequestRow.line).limit(limit)).all()


def store(session: Session, batch: Batch, answers: Sequence[Answered]) -> None:
    """Store responses, and count them on the batch's locked row."""
    if not answers:
        return
    values = {
        "lines": [answer.line for answer in answers],
        "statuses": [answer.status for answer in answers],
        "responses": [answer.response for answer in answers],
    }
    session.execute(_ANSWER, {"batch_id": batch.id} | values)
    succeeded = sum(answer.status == 200 for answer in answers)
    batch.completed += succeeded
    batch.failed += len(answers) - succeeded


def release(batch: Batch) -> None:
    """End the lease of a locked row."""
    batch.lease_token = batch.lease_until = None


def responses(session: Session, batch_id: str, *, succeeded: bool) -> Iterator[str]:
    """Yield the responses of a batch that have succeeded, or the others, in the order of their lines."""
    is_success = BatchRequestRow.status == 200
    query = select(BatchRequestRow.response).where(
        BatchRequestRow.batch_id == batch_id,
        and_(BatchRequestRow.status.is_not(None), is_success if succeeded else ~is_success),
    )
    query = query.order_by(BatchRequestRow.line).execution_options(yield_per=_ROWS_AT_ONCE)
    for response in session.scalars(query):
        assert response is not None
        yield response


def unanswered_ids(session: Session, batch_id: str) -> Iterator[str]:
    """Yield the `custom_id` of each request that has no response, in the order of their lines."""
    of_batch = (BatchRequestRow.batch_id == batch_id, BatchRequestRow.status.is_(None))
    query = select(BatchRequestRow.custom_id).where(*of_batch).order_by(BatchRequestRow.line)
    yield from session.scalars(query.execution_options(yield_per=_ROWS_AT_ONCE))


def remove_requests(session: Session, batch_id: str) -> None:
    """Delete the requests of a batch that has finished; its files have the responses."""
    session.execute(delete(BatchRequestRow).where(BatchRequestRow.batch_id == batch_id))
