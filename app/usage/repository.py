"""Queries on the hourly counts of predictions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.db.models import TaskUsage

HOUR_SECONDS = 3600
KEPT_DAYS = 31
_PRUNED = 10_000

# In the order of the key, so that two processes that add to the same rows cannot deadlock. The join drops the counts of
# tasks that were deleted meanwhile.
_ADD = text("""
INSERT INTO task_usage (task_id, hour, version, label, count, score_sum)
SELECT added.* FROM unnest(
    CAST(:task_ids AS text[]), CAST(:hours AS timestamptz[]), CAST(:versions AS int[]), CAST(:labels AS text[]),
    CAST(:counts AS bigint[]), CAST(:score_sums AS float8[])
) AS added (task_id, hour, version, label, count, score_sum)
JOIN tasks ON tasks.id = added.task_id
ORDER BY 1, 2, 3, 4
FOR KEY SHARE OF tasks
ON CONFLICT (task_id, hour, version, label) DO UPDATE
SET count = task_usage.count + excluded.count, score_sum = task_usage.score_sum + excluded.score_sum
""")
_PRUNE = text("""
DELETE FROM task_usage WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM task_usage WHERE hour < now() - make_interval(days => :days)
    LIMIT :most FOR UPDATE SKIP LOCKED
))
""")


class Counter(NamedTuple):
    """What is counted: a version's predictions with one label, in one hour since 1970."""

    task_id: str
    hour: int
    version: int
    label: str


class Count(NamedTuple):
    """How many predictions, and the sum of their scores."""

    predictions: int
    score_sum: float

    def plus(self, other: "Count") -> "Count":
        return Count(self.predictions + other.predictions, self.score_sum + other.score_sum)


def add(session: Session, counts: Mapping[Counter, Count]) -> None:
    """Add counts to those that are stored."""
    if not counts:
        return
    columns = {
        "task_ids": [counter.task_id for counter in counts],
        "hours": [datetime.fromtimestamp(counter.hour * HOUR_SECONDS, UTC) for counter in counts],
        "versions": [counter.version for counter in counts],
        "labels": [counter.label for counter in counts],
        "counts": [count.predictions for count in counts.values()],
        "score_sums": [count.score_sum for count in counts.values()],
    }
    session.execute(_ADD, columns)


def prune(session: Session) -> None:
    """Delete counts that are older than `KEPT_DAYS`, a limited number at a time."""
    session.execute(_PRUNE, {"days": KEPT_DAYS, "most": _PRUNED})


def hours_before(session: Session, task_id: str, *, before: datetime | None, limit: int) -> list[datetime]:
    """Return the hours before `before` in which a task answered, at most `limit`, newest first."""
    query = select(TaskUsage.hour).where(TaskUsage.task_id == task_id).distinct()
    if before is not None:
        query = query.where(TaskUsage.hour < before)
    return list(session.scalars(query.order_by(TaskUsage.hour.desc()).limit(limit)))


def of_hours(session: Session, task_id: str, hours: Sequence[datetime]) -> list[TaskUsage]:
    """Return a task's counts of some hours, newest first, then by version and by label."""
    query = select(TaskUsage).where(TaskUsage.task_id == task_id, TaskUsage.hour.in_(hours))
    return list(session.scalars(query.order_by(TaskUsage.hour.desc(), TaskUsage.version, TaskUsage.label)))
