"""Read the versions of tasks that answer predictions.

Each query is built once and takes its keys as arrays, so that its text is the same for any number of keys.
"""

from collections.abc import Collection, Iterator

from sqlalchemy import ARRAY, Integer, Text, and_, bindparam, column, func, select, true
from sqlalchemy.orm import Session, aliased

from app.db.models import Task, TaskVersion

OwnedTask = tuple[str, str]
"""Tenant id and task id."""

_OWNED_TASKS = bindparam("tenant_ids", type_=ARRAY(Text)), bindparam("task_ids", type_=ARRAY(Text))
_named = (
    func.unnest(*_OWNED_TASKS)
    .table_valued(column("tenant_id", Text), column("task_id", Text), name="named")
    .render_derived()
)
_is_named = and_(_named.c.tenant_id == Task.tenant_id, _named.c.task_id == Task.id)
_of_task = and_(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)

_newest_number = select(func.max(TaskVersion.version)).where(_of_task).scalar_subquery()
_NEWEST_NUMBERS = select(Task.tenant_id, Task.id, _newest_number).join(_named, _is_named)

_newest_row = aliased(
    TaskVersion, select(TaskVersion).where(_of_task).order_by(TaskVersion.version.desc()).limit(1).lateral()
)
_NEWEST = select(Task.tenant_id, Task.id, _newest_row).join(_named, _is_named).outerjoin(_newest_row, true())

_numbered = (
    func.unnest(*_OWNED_TASKS, bindparam("versions", type_=ARRAY(Integer)))
    .table_valued(column("tenant_id", Text), column("task_id", Text), column("version", Integer), name="numbered")
    .render_derived()
)
_VERSIONS = select(TaskVersion).join(
    _numbered,
    and_(
        _numbered.c.tenant_id == TaskVersion.tenant_id,
        _numbered.c.task_id == TaskVersion.task_id,
        _numbered.c.version == TaskVersion.version,
    ),
)


def newest_numbers(session: Session, owned: Collection[OwnedTask]) -> dict[OwnedTask, int | None]:
    """Return the number of the newest version of each existing task, None for a task without a version."""
    if not owned:
        return {}
    rows = session.execute(_NEWEST_NUMBERS, _arrays(owned))
    return {(tenant_id, task_id): version for tenant_id, task_id, version in rows}


def newest_versions(
    session: Session, owned: Collection[OwnedTask]
) -> tuple[dict[OwnedTask, int | None], list[TaskVersion]]:
    """Return the same as `newest_numbers`, and the rows of these versions."""
    if not owned:
        return {}, []
    numbers: dict[OwnedTask, int | None] = {}
    rows: list[TaskVersion] = []
    results: Iterator[tuple[str, str, TaskVersion | None]] = iter(session.execute(_NEWEST, _arrays(owned)))
    for tenant_id, task_id, row in results:
        numbers[tenant_id, task_id] = None if row is None else row.version
        if row is not None:
            rows.append(row)
    return numbers, rows


def versions(session: Session, keys: Collection[tuple[str, str, int]]) -> list[TaskVersion]:
    """Return the rows of the versions (tenant id, task id, number) that exist."""
    if not keys:
        return []
    numbers = [number for *_, number in keys]
    owned = _arrays([(tenant_id, task_id) for tenant_id, task_id, _ in keys])
    return list(session.scalars(_VERSIONS, owned | {"versions": numbers}))


def _arrays(owned: Collection[OwnedTask]) -> dict[str, list[str] | list[int]]:
    return {"tenant_ids": [tenant_id for tenant_id, _ in owned], "task_ids": [task_id for _, task_id in owned]}
