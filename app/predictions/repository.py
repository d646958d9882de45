"""Which version of a task answers, and what that version is made of."""

from collections.abc import Collection, Iterator

from sqlalchemy import ColumnElement, func, select, true, tuple_
from sqlalchemy.orm import Session, aliased

from app.db.models import Task, TaskVersion

OwnedTask = tuple[str, str]
"""A tenant's id and a task's."""


def newest_versions(
    session: Session, tenant_ids: Collection[str], task_ids: Collection[str]
) -> dict[OwnedTask, int | None]:
    """Those of `task_ids` that are one of these tenants', each with its newest version that can answer, if any."""
    if not task_ids:
        return {}
    newest = (
        select(func.max(TaskVersion.version))
        .where(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)
        .scalar_subquery()
    )
    rows = session.execute(select(Task.tenant_id, Task.id, newest).where(*_of(tenant_ids, task_ids)))
    return {(tenant_id, task_id): version for tenant_id, task_id, version in rows}


def newest(
    session: Session, tenant_ids: Collection[str], task_ids: Collection[str]
) -> tuple[dict[OwnedTask, int | None], list[TaskVersion]]:
    """The same, with those newest versions themselves."""
    if not task_ids:
        return {}, []
    version = (
        select(TaskVersion)
        .where(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)
        .order_by(TaskVersion.version.desc())
        .limit(1)
        .lateral()
    )
    newest_row = aliased(TaskVersion, version)
    query = select(Task.tenant_id, Task.id, newest_row).outerjoin(newest_row, true()).where(*_of(tenant_ids, task_ids))
    known: dict[OwnedTask, int | None] = {}
    rows: list[TaskVersion] = []
    found: Iterator[tuple[str, str, TaskVersion | None]] = iter(session.execute(query))
    for tenant_id, task_id, row in found:
        known[tenant_id, task_id] = None if row is None else row.version
        if row is not None:
            rows.append(row)
    return known, rows


def versions(session: Session, tenant_ids: Collection[str], wanted: Collection[tuple[str, int]]) -> list[TaskVersion]:
    """The rows of (task id, version) pairs, those that exist and are one of these tenants'."""
    if not wanted:
        return []
    pair = tuple_(TaskVersion.task_id, TaskVersion.version)
    rows = select(TaskVersion).where(TaskVersion.tenant_id.in_(tenant_ids), pair.in_(list(wanted)))
    return list(session.scalars(rows))


def _of(tenant_ids: Collection[str], task_ids: Collection[str]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return Task.tenant_id.in_(tenant_ids), Task.id.in_(task_ids)
