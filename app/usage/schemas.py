"""Response bodies of a task's usage."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Literal

from pydantic import BaseModel, Field

from app.db.models import TaskUsage


class LabelUsageView(BaseModel):
    label: str | None = Field(description="null for the texts of a text-to-text task")
    count: int
    mean_score: float = Field(description="the mean probability of this label where it was the answer, or confidence")


class VersionUsageView(BaseModel):
    version: int
    count: int
    mean_score: float
    labels: list[LabelUsageView]


class HourView(BaseModel):
    object: Literal["usage"] = "usage"
    hour: datetime = Field(description="the beginning of the hour")
    versions: list[VersionUsageView] = Field(description="the versions that answered")

    @classmethod
    def of(cls, hour: datetime, rows: Sequence[TaskUsage]) -> "HourView":
        """Return the view of one hour's counts, which are sorted by version."""
        return cls(hour=hour, versions=[_of_version(*group) for group in groupby(rows, key=attrgetter("version"))])


def _of_version(version: int, group: Iterator[TaskUsage]) -> VersionUsageView:
    rows = list(group)
    count = sum(row.count for row in rows)
    return VersionUsageView(
        version=version,
        count=count,
        mean_score=sum(row.score_sum for row in rows) / count,
        labels=[
            LabelUsageView(label=row.label or None, count=row.count, mean_score=row.score_sum / row.count)
            for row in rows
        ],
    )
