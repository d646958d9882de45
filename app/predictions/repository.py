"""Read the versions of tasks that answer predictions.

Each query is built once and takes its keys as arrays, so that its text is the same for any number of keys.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from sqlalchemy import ARRAY, Integer, Text, and_, bindparam, column, func, select, true
from sqlalchemy.orm import Session, aliased

from app.db.answering import ANSWERING_VERSION, CANARY_VERSION, OF_TASK
from app.db.models import Task, TaskVersion
from app.predictions.thresholds import Thresholds

OwnedTask = tuple[str, str]
"""Tenant id and task id."""


class Answering(NamedTuple):
    """Which version of a task answers, and which one answers a share of the requests instead."""

    version: int | None
    """None for a task without a version."""
    canary: int | None
    """None for a task without a canary, or if its version was deleted."""
    share: float | None
    thresholds: Thresholds


_OWNED_TASKS = bindparam("tenant_ids", type_=ARRAY(Text)), bindparam("task_ids", type_=ARRAY(Text))
_named = (
    func.unnest(*_OWNED_TASKS)
    .table_valued(column("tenant_id", Text), column("task_id", Text), name="named")
    .render_derived()
)
_is_named = and_(_named.c.tenant_id == Task.tenant_id, _named.c.task_id == Task.id)
_SETTINGS = CANARY_VERSION.label("canary"), Task.canary_share, Task.min_score, Task.min_in_scope

_NUMBERS = select(Task.tenant_id, Task.id, ANSWERING_VERSION.label("answering"), *_SETTINGS).join(_named, _is_named)

_answering_row = aliased(
    TaskVersion, select(TaskVersion).where(OF_TASK, TaskVersion.version == ANSWERING_VERSION).lateral()
)
_ROWS = (
    select(Task.tenant_id, Task.id, _answering_row, *_SETTINGS)
    .join(_named, _is_named)
    .outerjoin(_answering_row, true())
)

_numbered = (
    func.unnest(*_OWNED_TASKS, bindparam("versions", type_=ARRAY(Integer)))
    .table_valued(column("tenant_id", Text), column("task_id", Text), column("version", Integer), name="numbered")
    .render_derived()
)
_is_numbered = and_(
    _numbered.c.tenant_id == TaskVersion.tenant_id,
    _numbered.c.task_id == TaskVersion.task_id,
    _numbered.c.version == TaskVersion.version,
)
_VERSIONS = select(TaskVersion).join(_numbered, _is_numbered)
_EXISTING = select(TaskVersion.task_id, TaskVersion.version).join(_numbered, _is_numbered)


def answering_numbers(session: Session, owned: Collection[OwnedTask]) -> dict[OwnedTask, Answering]:
    """Return which versions of each existing task answer."""
    if not owned:
        return {}
    rows = session.execute(_NUMBERS, _arrays(owned))
    return {
        (tenant_id, task_id): Answering(version, canary, share, Thresholds(*thresholds))
        for tenant_id, task_id, version, canary, share, *thresholds in rows
    }


def answering_versions(
    session: Session, owned: Collection[OwnedTask]
) -> tuple[dict[OwnedTask, Answering], list[TaskVersion]]:
    """Return the same as `answering_numbers`, and the rows of the versions that answer, without those of canaries."""
    if not owned:
        return {}, []
    numbers: dict[OwnedTask, Answering] = {}
    rows: list[TaskVersion] = []
    results: Iterator[tuple[str, str, TaskVersion | None, int | None, float | None, float | None, float | None]]
    results = iter(session.execute(_ROWS, _arrays(owned)))
    for tenant_id, task_id, row, canary, share, *thresholds in results:
        version = None if row is None else row.version
        numbers[tenant_id, task_id] = Answering(version, canary, share, Thresholds(*thresholds))
        if row is not None:
            rows.append(row)
    return numbers, rows


def versions(session: Session, keys: Collection[tuple[str, str, int]]) -> list[TaskVersion]:
    """Return the rows of the versions (tenant id, task id, number) that exist."""
    return list(session.scalars(_VERSIONS, _numbered_arrays(keys))) if keys else []


def existing(session: Session, keys: Collection[tuple[str, str, int]]) -> set[tuple[str, int]]:
    """Return the task id and the number of each of the versions (tenant id, task id, number) that exists."""
    if not keys:
        return set()
    return {(task_id, number) for task_id, number in session.execute(_EXISTING, _numbered_arrays(keys))}


def _numbered_arrays(keys: Collection[tuple[str, str, int]]) -> dict[str, list[str] | list[int]]:
    owned = _arrays([(tenant_id, task_id) for tenant_id, task_id, _ in keys])
    return owned | {"versions": [number for *_, number in keys]}


def _arrays(owned: Collection[OwnedTask]) -> dict[str, list[str] | list[int]]:
    return {"tenant_ids": [tenant_id for tenant_id, _ in owned], "task_ids": [task_id for _, task_id in owned]}
