"""Rows of `tasks` and `task_versions`, as a tenant sees them."""

from collections.abc import Collection

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session, defer, joinedload

from app.db.ids import new_id
from app.db.models import Adaptation, Dataset, Task, TaskVersion


def add(session: Session, tenant_id: str, name: str) -> str:
    """A new task whose version 1 is given out; returns its id."""
    task = Task(id=new_id("tsk"), tenant_id=tenant_id, name=name, last_version=1)
    session.add(task)
    session.flush()
    return task.id


def take_next_version(session: Session, tenant_id: str, task_id: str) -> int | None:
    """A version number that nobody else gets, None if the tenant has no such task."""
    return session.scalar(
        update(Task)
        .where(Task.id == task_id, Task.tenant_id == tenant_id)
        .values(last_version=Task.last_version + 1)
        .returning(Task.last_version)
    )


def of_tenant(tenant_id: str) -> Select[Task]:
    """A tenant's tasks, for a list."""
    return select(Task).where(Task.tenant_id == tenant_id)


def get(session: Session, tenant_id: str, task_id: str) -> Task | None:
    """One task, if it is the tenant's."""
    return session.scalar(of_tenant(tenant_id).where(Task.id == task_id))


def versions(session: Session, tenant_id: str, task_ids: Collection[str]) -> dict[str, list[TaskVersion]]:
    """The versions of each task that can answer, oldest first, without what they are made of."""
    by_task: dict[str, list[TaskVersion]] = {task_id: [] for task_id in task_ids}
    query = (
        select(TaskVersion)
        .where(TaskVersion.tenant_id == tenant_id, TaskVersion.task_id.in_(task_ids))
        .order_by(TaskVersion.version)
        .options(
            defer(TaskVersion.vector, raiseload=True),
            defer(TaskVersion.readout, raiseload=True),
            joinedload(TaskVersion.adaptation).load_only(Adaptation.metrics),
        )
    )
    for row in session.scalars(query):
        by_task[row.task_id].append(row)
    return by_task


def version(session: Session, tenant_id: str, task_id: str, number: int | None) -> TaskVersion | None:
    """One version of a task, the newest without a number."""
    query = select(TaskVersion).where(TaskVersion.tenant_id == tenant_id, TaskVersion.task_id == task_id)
    if number is not None:
        query = query.where(TaskVersion.version == number)
    return session.scalar(query.order_by(TaskVersion.version.desc()).limit(1))


def remove(session: Session, tenant_id: str, task_id: str) -> bool:
    """Delete a task with its versions and adaptations, and the datasets that no other adaptation uses."""
    # The task is locked before its adaptations; workers keep to the same order.
    locked = session.scalar(of_tenant(tenant_id).where(Task.id == task_id).with_for_update())
    if locked is None:
        return False
    used = select(Adaptation.dataset_id).where(Adaptation.task_id == task_id, Adaptation.tenant_id == tenant_id)
    dataset_ids = set(session.scalars(used))
    session.execute(delete(Task).where(Task.id == task_id, Task.tenant_id == tenant_id))
    # An adaptation that is being created holds its dataset's lock: wait for it, then see whether it uses the row.
    held = select(Dataset.id).where(Dataset.id.in_(dataset_ids)).order_by(Dataset.id).with_for_update()
    session.execute(held).all()
    unused = ~select(Adaptation.id).where(Adaptation.dataset_id == Dataset.id).exists()
    session.execute(delete(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.id.in_(dataset_ids), unused))
    return True
