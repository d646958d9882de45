"""Which version of a task answers, and what that version is made of."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select, true, tuple_
from sqlalchemy.orm import Session, aliased

from app.db.models import Task, TaskVersion


@dataclass(frozen=True, slots=True)
class Known:
    """A task of the tenant and its newest version that can answer, where there is one."""

    task_id: str
    newest_version: int | None


def newest_versions(session: Session, tenant_id: str, task_ids: Collection[str]) -> dict[str, Known]:
    """Those of `task_ids` that are the tenant's, each with its newest version, in one query."""
    newest = (
        select(func.max(TaskVersion.version))
        .where(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == tenant_id)
        .scalar_subquery()
    )
    rows = session.execute(select(Task.id, newest).where(Task.tenant_id == tenant_id, Task.id.in_(task_ids)))
    return {task_id: Known(task_id, version) for task_id, version in rows}


def newest(session: Session, tenant_id: str, task_ids: Collection[str]) -> tuple[dict[str, Known], list[TaskVersion]]:
    """The same, with those newest versions themselves."""
    version = (
        select(TaskVersion)
        .where(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == tenant_id)
        .order_by(TaskVersion.version.desc())
        .limit(1)
        .lateral()
    )
    newest_row = aliased(TaskVersion, version)
    query = (
        select(Task.id, newest_row)
        .outerjoin(newest_row, true())
        .where(Task.tenant_id == tenant_id, Task.id.in_(task_ids))
    )
    found: dict[str, TaskVersion | None] = dict(iter(session.execute(query)))
    known = {task_id: Known(task_id, None if row is None else row.version) for task_id, row in found.items()}
    return known, [row for row in found.values() if row is not None]


def versions(session: Session, tenant_id: str, wanted: Collection[tuple[str, int]]) -> list[TaskVersion]:
    """The rows of (task id, version) pairs, those that exist."""
    if not wanted:
        return []
    pair = tuple_(TaskVersion.task_id, TaskVersion.version)
    return list(session.scalars(select(TaskVersion).where(TaskVersion.tenant_id == tenant_id, pair.in_(list(wanted)))))
