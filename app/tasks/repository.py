"""Rows of `tasks` and `task_versions`, as a tenant sees them."""

from collections.abc import Collection, Sequence

from sqlalchemy import Select, delete, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from app.db.models import Adaptation, Dataset, Task, TaskVersion
from app.ids import new_id


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
    """The versions of each task that can answer, oldest first."""
    by_task: dict[str, list[TaskVersion]] = {task_id: [] for task_id in task_ids}
    query = (
        select(TaskVersion)
        .where(TaskVersion.tenant_id == tenant_id, TaskVersion.task_id.in_(task_ids))
        .order_by(TaskVersion.version)
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


def neighbors(session: Session, tenant_id: str, of: TaskVersion, limit: int) -> Sequence[tuple[Task, int, float]]:
    """The tenant's other tasks in the same subspace whose newest vectors point most nearly the same way.

    Each with its version and cosine similarity. The scan is exact: an index that is approximate would have to be one
    per subspace, and a tenant's tasks are thousands, not millions.
    """
    newest = (
        select(TaskVersion.task_id, TaskVersion.version, TaskVersion.vector)
        .where(TaskVersion.tenant_id == tenant_id, TaskVersion.subspace_id == of.subspace_id)
        .where(TaskVersion.task_id != of.task_id)
        .ext(distinct_on(TaskVersion.task_id))
        .order_by(TaskVersion.task_id, TaskVersion.version.desc())
        .subquery()
    )
    distance = newest.c.vector.cosine_distance(of.vector)
    rows = session.execute(
        select(Task, newest.c.version, 1 - distance)
        .join(newest, newest.c.task_id == Task.id)
        .where(Task.tenant_id == tenant_id)
        .order_by(distance, Task.id)
        .limit(limit)
    )
    return [(task, number, float(similarity)) for task, number, similarity in rows]


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
