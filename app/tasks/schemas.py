"""Response bodies of tasks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.db.models import Kind, Promotion, Task, TaskVersion
from app.tasks.repository import VersionSummary

SHOWN_VERSIONS = 10
"""Most versions that a task is shown with."""


class VersionView(BaseModel):
    version: int
    kind: Kind
    labels: list[str] = Field(description="empty for text2text")
    subspace_id: str
    metrics: dict[str, Any]
    adaptation_id: str = Field(description="the adaptation that created this version")
    created_at: datetime

    @classmethod
    def of(cls, row: TaskVersion) -> "VersionView":
        return cls(
            version=row.version,
            kind=row.kind,
            labels=row.labels,
            subspace_id=row.subspace_id,
            metrics=row.adaptation.metrics or {},
            adaptation_id=row.adaptation_id,
            created_at=row.created_at,
        )


class CanaryView(BaseModel):
    version: int
    share: float = Field(description="the share of requests that this version answers")


class TaskView(BaseModel):
    id: str = Field(examples=["tsk_4f0m2q8z1x7c9v5b3n6k0j2h"])
    object: Literal["task"] = "task"
    name: str = Field(examples=["tickets"])
    version: int | None = Field(
        description="the version that answers by default, which is the newest one unless another was promoted; null "
        "until one exists"
    )
    promote: Promotion = Field(
        description="when a new version answers: at once, if it is better, or once it is promoted"
    )
    canary: CanaryView | None = Field(description="a version that answers a share of the requests that name none")
    min_score: float | None = Field(description="the `min_score` of predictions that name none")
    min_in_scope: float | None = Field(description="the `min_in_scope` of predictions that name none")
    version_count: int = Field(description="how many versions can answer; `/versions` lists them all")
    versions: list[VersionView] = Field(
        description=f"the newest {SHOWN_VERSIONS} versions, oldest first; in a list of tasks only the newest version"
    )
    created_at: datetime

    @classmethod
    def of(cls, row: Task, newest: Sequence[TaskVersion], summary: VersionSummary) -> "TaskView":
        canary = None
        if summary.canary is not None and row.canary_share is not None:
            canary = CanaryView(version=summary.canary, share=row.canary_share)
        return cls(
            id=row.id,
            name=row.name,
            version=summary.answering,
            promote=row.promotion,
            canary=canary,
            min_score=row.min_score,
            min_in_scope=row.min_in_scope,
            version_count=summary.total,
            versions=[VersionView.of(version) for version in newest],
            created_at=row.created_at,
        )


class VectorView(BaseModel):
    object: Literal["task_vector"] = "task_vector"
    task_id: str
    task_version: int
    subspace_id: str = Field(description="the only subspace in which the vector has a meaning")
    vector: list[float]

    @classmethod
    def of(cls, row: TaskVersion) -> "VectorView":
        return cls(task_id=row.task_id, task_version=row.version, subspace_id=row.subspace_id, vector=list(row.vector))


class NeighborView(BaseModel):
    object: Literal["neighbor"] = "neighbor"
    task_id: str
    task_version: int
    name: str
    similarity: float = Field(description="cosine similarity of the two task vectors")


class DeletedView(BaseModel):
    id: str
    object: Literal["task"] = "task"
    deleted: Literal[True] = True
