"""Queries on a tenant's tasks as models: the tasks that have a version."""

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.models import Task, TaskVersion


def newest(session: Session, tenant_id: str, limit: int) -> Sequence[Task]:
    """Return the tenant's newest tasks that can answer."""
    return session.scalars(_of_tenant(tenant_id).order_by(Task.created_at.desc(), Task.id.desc()).limit(limit)).all()


def get(session: Session, tenant_id: str, task_id: str) -> Task | None:
    """Return a task, None if the tenant has no such task or it cannot answer yet."""
    return session.scalar(_of_tenant(tenant_id).where(Task.id == task_id))


def _of_tenant(tenant_id: str) -> Select[Task]:
    of_task = (TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)
    return select(Task).where(Task.tenant_id == tenant_id, select(TaskVersion.version).where(*of_task).exists())
