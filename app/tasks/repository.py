"""Queries on a tenant's tasks and their versions."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Select, delete, func, select, true, update
from sqlalchemy.orm import Session, aliased, defer, joinedload
from sqlalchemy.sql.base import ExecutableOption

from app.db.answering import ANSWERING_VERSION, CANARY_VERSION, OF_TASK
from app.db.ids import new_id
from app.db.models import Adaptation, Task, TaskVersion
from app.db.unused_datasets import delete_unused_datasets


class VersionSummary(NamedTuple):
    """The version of a task that answers, its canary, and how many versions it has."""

    answering: int | None
    canary: int | None
    total: int


def add(session: Session, tenant_id: str, name: str) -> str:
    """Insert a task with version 1 reserved, and return its id."""
    task = Task(id=new_id("tsk"), tenant_id=tenant_id, name=name, last_version=1)
    session.add(task)
    session.flush()
    return task.id


def take_next_version(session: Session, tenant_id: str, task_id: str) -> int | None:
    """Reserve the next version number; None if the tenant has no such task."""
    return session.scalar(
        update(Task)
        .where(Task.id == task_id, Task.tenant_id == tenant_id)
        .values(last_version=Task.last_version + 1)
        .returning(Task.last_version)
    )


def of_tenant(tenant_id: str) -> Select[Task]:
    """Select a tenant's tasks."""
    return select(Task).where(Task.tenant_id == tenant_id)


def get(session: Session, tenant_id: str, task_id: str) -> Task | None:
    """Return one task, None if the tenant has no such task."""
    return session.scalar(of_tenant(tenant_id).where(Task.id == task_id))


def newest_versions(
    session: Session, tenant_id: str, task_ids: Collection[str], limit: int
) -> dict[str, list[TaskVersion]]:
    """Return each task's newest versions, at most `limit`, oldest first, without vectors, readouts and scopes."""
    newest = aliased(
        TaskVersion,
        select(TaskVersion)
        .where(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)
        .order_by(TaskVersion.version.desc())
        .limit(limit)
        .lateral(),
    )
    query = (
        select(newest)
        .select_from(Task)
        .join(newest, true())
        .where(Task.tenant_id == tenant_id, Task.id.in_(task_ids))
        .order_by(newest.version)
        .options(*_summary(newest))
    )
    by_task: dict[str, list[TaskVersion]] = {task_id: [] for task_id in task_ids}
    for row in session.scalars(query):
        by_task[row.task_id].append(row)
    return by_task


def summaries(session: Session, tenant_id: str, task_ids: Collection[str]) -> dict[str, VersionSummary]:
    """Return which versions of each task answer, and how many it has."""
    count = select(func.count()).select_from(TaskVersion).where(OF_TASK).correlate(Task).scalar_subquery()
    query = select(Task.id, ANSWERING_VERSION, CANARY_VERSION, count)
    rows = session.execute(query.where(Task.tenant_id == tenant_id, Task.id.in_(task_ids)))
    return {task_id: VersionSummary(*summary) for task_id, *summary in rows}


def versions_before(
    session: Session, tenant_id: str, task_id: str, *, before: int | None, limit: int
) -> list[TaskVersion]:
    """Return a task's versions with numbers below `before`, at most `limit`, newest first."""
    query = select(TaskVersion).where(TaskVersion.tenant_id == tenant_id, TaskVersion.task_id == task_id)
    if before is not None:
        query = query.where(TaskVersion.version < before)
    newest_first = query.order_by(TaskVersion.version.desc()).limit(limit)
    return list(session.scalars(newest_first.options(*_summary(TaskVersion))))


def _summary(version_: type[TaskVersion]) -> list[ExecutableOption]:
    """Load the metrics of a version, without its vector, readout and scope."""
    return [
        defer(version_.vector, raiseload=True),
        defer(version_.readout, raiseload=True),
        defer(version_.scope, raiseload=True),
        joinedload(version_.adaptation).load_only(Adaptation.metrics),
    ]


def version(session: Session, tenant_id: str, task_id: str, number: int | None) -> TaskVersion | None:
    """Return one version of a task, the newest if `number` is None; None if the task has no such version."""
    query = select(TaskVersion).where(TaskVersion.tenant_id == tenant_id, TaskVersion.task_id == task_id)
    if number is not None:
        query = query.where(TaskVersion.version == number)
    return session.scalar(query.order_by(TaskVersion.version.desc()).limit(1))


def remove(session: Session, tenant_id: str, task_id: str) -> bool:
    """Delete a task, its versions and adaptations, and unused datasets; False if the tenant has no such task."""
    # Lock the task before its adaptations, in the order of the workers, to avoid deadlocks.
    locked = session.scalar(of_tenant(tenant_id).where(Task.id == task_id).with_for_update())
    if locked is None:
        return False
    datasets = select(Adaptation.dataset_id).where(Adaptation.task_id == task_id, Adaptation.tenant_id == tenant_id)
    dataset_ids = set(session.scalars(datasets))
    session.execute(delete(Task).where(Task.id == task_id, Task.tenant_id == tenant_id))
    delete_unused_datasets(session, dataset_ids)
    return True
