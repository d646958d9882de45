"""Which version of a task answers, and what that version is made of.

Each query is put together once, and takes what it is asked for as arrays, however much that is.
"""

from collections.abc import Collection, Iterator

from sqlalchemy import ARRAY, Integer, Text, and_, bindparam, column, func, select, true
from sqlalchemy.orm import Session, aliased

from app.db.models import Task, TaskVersion

OwnedTask = tuple[str, str]
"""A tenant's id and a task's."""

_OWNED = bindparam("tenant_ids", type_=ARRAY(Text)), bindparam("task_ids", type_=ARRAY(Text))
_named = (
    func.unnest(*_OWNED).table_valued(column("tenant_id", Text), column("task_id", Text), name="named").render_derived()
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
    func.unnest(*_OWNED, bindparam("versions", type_=ARRAY(Integer)))
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


def newest_versions(session: Session, wanted: Collection[OwnedTask]) -> dict[OwnedTask, int | None]:
    """Those of these tasks that are their tenants', each with its newest version that can answer, if any."""
    if not wanted:
        return {}
    rows = session.execute(_NEWEST_NUMBERS, _arrays(wanted))
    return {(tenant_id, task_id): version for tenant_id, task_id, version in rows}


def newest(session: Session, wanted: Collection[OwnedTask]) -> tuple[dict[OwnedTask, int | None], list[TaskVersion]]:
    """The same, with those newest versions themselves."""
    if not wanted:
        return {}, []
    known: dict[OwnedTask, int | None] = {}
    rows: list[TaskVersion] = []
    found: Iterator[tuple[str, str, TaskVersion | None]] = iter(session.execute(_NEWEST, _arrays(wanted)))
    for tenant_id, task_id, row in found:
        known[tenant_id, task_id] = None if row is None else row.version
        if row is not None:
            rows.append(row)
    return known, rows


def versions(session: Session, wanted: Collection[tuple[str, str, int]]) -> list[TaskVersion]:
    """Those of these versions (tenant's id, task's id, number) that there are."""
    if not wanted:
        return []
    numbers = [number for *_, number in wanted]
    owned = _arrays([(tenant_id, task_id) for tenant_id, task_id, _ in wanted])
    return list(session.scalars(_VERSIONS, owned | {"versions": numbers}))


def _arrays(wanted: Collection[OwnedTask]) -> dict[str, list[str] | list[int]]:
    return {"tenant_ids": [tenant_id for tenant_id, _ in wanted], "task_ids": [task_id for _, task_id in wanted]}
