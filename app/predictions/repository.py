"""Which version of a task answers, and what that version is made of."""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, FromClause, Integer, Text, and_, column, func, literal, select, true
from sqlalchemy.orm import Session, aliased

from app.db.models import Task, TaskVersion

OwnedTask = tuple[str, str]
"""A tenant's id and a task's."""


def newest_versions(session: Session, wanted: Collection[OwnedTask]) -> dict[OwnedTask, int | None]:
    """Those of these tasks that are their tenants', each with its newest version that can answer, if any."""
    if not wanted:
        return {}
    newest = (
        select(func.max(TaskVersion.version))
        .where(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)
        .scalar_subquery()
    )
    named = _table(("tenant_id", Text), ("task_id", Text), rows=wanted)
    rows = session.execute(select(Task.tenant_id, Task.id, newest).join(named, _is(named)))
    return {(tenant_id, task_id): version for tenant_id, task_id, version in rows}


def newest(session: Session, wanted: Collection[OwnedTask]) -> tuple[dict[OwnedTask, int | None], list[TaskVersion]]:
    """The same, with those newest versions themselves."""
    if not wanted:
        return {}, []
    version = (
        select(TaskVersion)
        .where(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)
        .order_by(TaskVersion.version.desc())
        .limit(1)
        .lateral()
    )
    newest_row = aliased(TaskVersion, version)
    named = _table(("tenant_id", Text), ("task_id", Text), rows=wanted)
    query = select(Task.tenant_id, Task.id, newest_row).join(named, _is(named)).outerjoin(newest_row, true())
    known: dict[OwnedTask, int | None] = {}
    rows: list[TaskVersion] = []
    found: Iterator[tuple[str, str, TaskVersion | None]] = iter(session.execute(query))
    for tenant_id, task_id, row in found:
        known[tenant_id, task_id] = None if row is None else row.version
        if row is not None:
            rows.append(row)
    return known, rows


def versions(session: Session, wanted: Collection[tuple[str, str, int]]) -> list[TaskVersion]:
    """Those of these versions (tenant's id, task's id, number) that there are."""
    if not wanted:
        return []
    named = _table(("tenant_id", Text), ("task_id", Text), ("version", Integer), rows=wanted)
    same = and_(
        named.c.tenant_id == TaskVersion.tenant_id,
        named.c.task_id == TaskVersion.task_id,
        named.c.version == TaskVersion.version,
    )
    return list(session.scalars(select(TaskVersion).join(named, same)))


def _table(*columns: tuple[str, Any], rows: Collection[tuple[Any, ...]]) -> FromClause:
    """Rows as a table `named`: one statement however many there are."""
    arrays = [
        literal(list(values), ARRAY(of)) for (_, of), values in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    return func.unnest(*arrays).table_valued(*(column(name, of) for name, of in columns), name="named").render_derived()


def _is(named: FromClause) -> ColumnElement[bool]:
    return and_(named.c.tenant_id == Task.tenant_id, named.c.task_id == Task.id)
