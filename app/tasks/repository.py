"""Rows of `tasks` and `task_versions`, as a tenant sees them."""

from collections.abc import Collection, Sequence

import numpy as np
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ColumnElement, Label, Select, cast, delete, exists, func, label, literal, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, aliased, defer

from app.db.models import INDEXED, INDEXED_DIM, SPREAD_DIMS, Adaptation, Dataset, Task, TaskVersion
from app.ids import new_id

EXACT_UP_TO = 10_000
"""Fewer vectors of a tenant are compared each: exactly, and within a second wherever in a large table they lie."""

# For this transaction: the index goes on until it has found enough that the query wants, rather than filter what it
# found once; it looks far enough around not to end in the wrong one of many narrow groups; and it is used whatever the
# planner expects of sorting.
_SEARCH = text("""
SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '600', true),
    set_config('enable_sort', 'off', true)
""")
_SEARCHED = text("SELECT set_config('enable_sort', 'on', true)")


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
        .options(defer(TaskVersion.vector, raiseload=True), defer(TaskVersion.readout, raiseload=True))
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

    Each with its version and cosine similarity. A vector of zeros, the average task's, points nowhere: a task that has
    it is not among them, and has none itself. Where there are more than `EXACT_UP_TO` versions to compare, an index
    finds the candidates, and may miss some: the more, the more tasks there are (docs/decisions/0012).
    """
    if not np.any(of.vector):
        return []
    found: Sequence[tuple[Task, int, float]] = []
    if _many(session, tenant_id, of):
        found = _tasks(session, tenant_id, _nearest_by_index(session, tenant_id, of, limit))
        session.execute(_SEARCHED)
    if len(found) < limit:  # the index gives up after a number of rows, most of which may be other tenants'
        found = _tasks(session, tenant_id, _nearest(tenant_id, of, limit))
    return found


def _many(session: Session, tenant_id: str, of: TaskVersion) -> bool:
    """Whether there are so many vectors to compare, and of such a length, that the index is worth it."""
    if len(of.vector) != INDEXED_DIM:
        return False
    of_subspace = select(literal(1)).where(
        TaskVersion.tenant_id == tenant_id, TaskVersion.subspace_id == of.subspace_id
    )
    return session.scalar(of_subspace.offset(EXACT_UP_TO).limit(1)) is not None


def _nearest(tenant_id: str, of: TaskVersion, limit: int) -> Select[str, int, float]:
    """Task id, version and cosine distance of the nearest, every vector compared."""
    newest = (
        select(TaskVersion.task_id, TaskVersion.version, _distance(of))
        .where(*_others(tenant_id, of))
        .ext(distinct_on(TaskVersion.task_id))
        .order_by(TaskVersion.task_id, TaskVersion.version.desc())
        .subquery()
    )
    points_somewhere = newest.c.distance <= 2  # which NaN, for a vector of zeros, is not
    return select(newest).where(points_somewhere).order_by(newest.c.distance, newest.c.task_id).limit(limit)


def _nearest_by_index(session: Session, tenant_id: str, of: TaskVersion, limit: int) -> Select[str, int, float]:
    """The same by the index, in which there are no vectors of zeros."""
    session.execute(_SEARCH)
    newer = aliased(TaskVersion)
    superseded = exists().where(
        newer.task_id == TaskVersion.task_id,
        newer.version > TaskVersion.version,
        newer.subspace_id == TaskVersion.subspace_id,
    )
    spread = func.spread_vector(TaskVersion.vector, TaskVersion.task_id)
    candidates = (
        select(TaskVersion.task_id, TaskVersion.version, _distance(of))
        .where(*_others(tenant_id, of), ~superseded, text(INDEXED))
        .order_by(cast(spread, HALFVEC(INDEXED_DIM + SPREAD_DIMS)).cosine_distance([*of.vector, *[0.0] * SPREAD_DIMS]))
        .limit(2 * limit)  # for they come in about the right order
        .subquery()
    )
    return select(candidates).order_by(candidates.c.distance, candidates.c.task_id).limit(limit)


def _others(tenant_id: str, of: TaskVersion) -> tuple[ColumnElement[bool], ...]:
    return (
        TaskVersion.tenant_id == tenant_id,
        TaskVersion.subspace_id == of.subspace_id,
        TaskVersion.task_id != of.task_id,
    )


def _distance(of: TaskVersion) -> Label[float]:
    return label("distance", TaskVersion.vector.cosine_distance(of.vector))


def _tasks(session: Session, tenant_id: str, nearest: Select[str, int, float]) -> Sequence[tuple[Task, int, float]]:
    near = nearest.subquery()
    rows = session.execute(
        select(Task, near.c.version, 1 - near.c.distance)
        .join(near, near.c.task_id == Task.id)
        .where(Task.tenant_id == tenant_id)
        .order_by(near.c.distance, Task.id)
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
