"""Queries on a tenant's tasks as models: the tasks that have a version, each with the subspace of its newest one."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.models import Task, TaskVersion


def newest(session: Session, tenant_id: str, limit: int) -> list[tuple[Task, str]]:
    """Return the tenant's newest tasks that can answer."""
    query = _of_tenant(tenant_id).order_by(Task.created_at.desc(), Task.id.desc()).limit(limit)
    return [(task, subspace_id) for task, subspace_id in session.execute(query)]


def get(session: Session, tenant_id: str, task_id: str) -> tuple[Task, str] | None:
    """Return a task, None if the tenant has no such task or it cannot answer yet."""
    row = session.execute(_of_tenant(tenant_id).where(Task.id == task_id)).one_or_none()
    return None if row is None else (row[0], row[1])


def _of_tenant(tenant_id: str) -> Select[Task, str]:
    versions = select(TaskVersion.subspace_id).where(
        TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id
    )
    newest = versions.order_by(TaskVersion.version.desc()).limit(1).scalar_subquery()
    return select(Task, newest).where(Task.tenant_id == tenant_id, newest.is_not(None))
