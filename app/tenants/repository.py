"""List, export and delete tenants, over all tables that belong to them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import psycopg
from sqlalchemy import BigInteger, ColumnElement, Table, delete, func, literal_column, select
from sqlalchemy.orm import Session

from app.db.file_models import Batch
from app.db.models import Adaptation, ApiKey, Dataset, KeptTextRow, SchemaFloor, SubspaceRow, Task, Tenant, Worker
from app.db.tables import METADATA
from app.settings import DEFAULT_TENANT

OPERATORS_TABLES = frozenset(each.__tablename__ for each in (SubspaceRow, Worker, SchemaFloor))
"""Tables that belong to no tenant."""
_SECRET_COLUMNS = {"sha256", "secret", "former_secret"}


@dataclass(frozen=True, slots=True)
class TenantSummary:
    """How much a tenant has; `bytes` are those of its datasets' texts."""

    id: str
    created_at: datetime
    keys: int
    tasks: int
    adaptations: int
    bytes: int
    keep_texts: bool


def listed(session: Session) -> list[TenantSummary]:
    """Return all tenants, by id."""

    def count(table: type[ApiKey | Task | Adaptation]) -> Any:
        return select(func.count()).where(table.tenant_id == Tenant.id).scalar_subquery()

    stored = (
        select(func.coalesce(func.sum(Dataset.size), 0).cast(BigInteger))
        .where(Dataset.tenant_id == Tenant.id)
        .scalar_subquery()
    )
    query = select(
        Tenant.id, Tenant.created_at, count(ApiKey), count(Task), count(Adaptation), stored, Tenant.keep_texts
    )
    rows = session.execute(query.order_by(Tenant.id)).all()
    return [TenantSummary(*row) for row in rows]


def exists(session: Session, tenant_id: str) -> bool:
    """Return whether there is such a tenant."""
    return session.get(Tenant, tenant_id) is not None


def rows(session: Session, tenant_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every row that belongs to a tenant with the name of its table, parents first, without hashes and secrets.

    Bytes are in hexadecimal. One row at a time is in memory, since the content of a single file can be large.
    """
    connection = session.connection()
    for table in METADATA.sorted_tables:
        if table.name in OPERATORS_TABLES:
            continue
        row = func.to_jsonb(literal_column(f'"{table.name}"'))
        query = select(row).select_from(table).where(_belongs_to(table, tenant_id)).order_by(*table.primary_key)
        compiled = query.compile(connection)
        # SQLAlchemy can only fetch a number of rows at once, or wait for the server once for each.
        with cast(psycopg.Connection, connection.connection.driver_connection).cursor() as cursor:
            for (values,) in cursor.stream(str(compiled), compiled.params):
                yield table.name, {name: value for name, value in values.items() if name not in _SECRET_COLUMNS}


def remove(session: Session, tenant_id: str) -> None:
    """Delete a tenant with everything that belongs to it; the default tenant exists again, empty."""
    # Batches first: a process that ends a batch locks the batch, and then the tenant of its result files.
    session.execute(delete(Batch).where(Batch.tenant_id == tenant_id))
    session.execute(delete(Tenant).where(Tenant.id == tenant_id))
    if tenant_id == DEFAULT_TENANT:
        session.add(Tenant(id=DEFAULT_TENANT))
        session.flush()


def switch_kept_texts(session: Session, tenant_id: str, *, on: bool) -> None:
    """Let a tenant keep the texts that its tasks are asked, or keep none any more and delete those that were kept."""
    # Waits for texts that are being stored, and lets none be stored until this transaction ends.
    tenant = session.get_one(Tenant, tenant_id, with_for_update=True)
    tenant.keep_texts = on
    if not on:
        tasks = select(Task.id).where(Task.tenant_id == tenant_id)
        session.execute(delete(KeptTextRow).where(KeptTextRow.task_id.in_(tasks)))


def _belongs_to(table: Table, tenant_id: str) -> ColumnElement[bool]:
    """Return the condition for a table's rows of a tenant: by its column, or by the parent that its key refers to."""
    if table.name == Tenant.__tablename__:
        return table.c.id == tenant_id
    if "tenant_id" in table.c:
        return table.c.tenant_id == tenant_id
    [constraint] = table.foreign_key_constraints
    parent = constraint.referred_table
    joined = [element.parent == element.column for element in constraint.elements]
    return select(parent).where(*joined, _belongs_to(parent, tenant_id)).exists()
