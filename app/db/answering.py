"""Which version of a task answers by default.

While a task's promotion is `always`, that is the newest version, unless an older one was promoted after it. Otherwise
it is the promoted version, and the oldest one until a version is promoted.
"""

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from app.db.models import Task, TaskVersion

OF_TASK: ColumnElement[bool] = and_(TaskVersion.task_id == Task.id, TaskVersion.tenant_id == Task.tenant_id)
"""Joins a version to its task."""

_newest = select(func.max(TaskVersion.version)).where(OF_TASK).correlate(Task).scalar_subquery()
_oldest = select(func.min(TaskVersion.version)).where(OF_TASK).correlate(Task).scalar_subquery()
_promoted = (
    select(TaskVersion.version)
    .where(OF_TASK, TaskVersion.version == Task.promoted_version)
    .correlate(Task)
    .scalar_subquery()
)
_is_always = Task.promotion == "always"
_is_superseded = or_(Task.promoted_version.is_(None), _newest > Task.newest_at_promotion)

ANSWERING_VERSION: ColumnElement[int | None] = case(
    (and_(_is_always, _is_superseded), _newest),
    # Retention keeps the promoted version; the rest is for one that is deleted all the same.
    else_=func.coalesce(_promoted, case((_is_always, _newest), else_=_oldest)),
)
"""The number of the version that answers for a row of `tasks`; null if the task has no version yet."""

CANARY_VERSION: ColumnElement[int | None] = (
    select(TaskVersion.version)
    .where(OF_TASK, TaskVersion.version == Task.canary_version)
    .correlate(Task)
    .scalar_subquery()
)
"""The number of a task's canary version; null if it has none, or if that version was deleted."""
