"""Response bodies of tasks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.db.models import Kind, Task, TaskVersion


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


class TaskView(BaseModel):
    id: str = Field(examples=["tsk_4f0m2q8z1x7c9v5b3n6k0j2h"])
    object: Literal["task"] = "task"
    name: str = Field(examples=["tickets"])
    version: int | None = Field(description="the newest version, which answers by default; null until one exists")
    versions: list[VersionView] = Field(description="all versions that can answer, oldest first")
    created_at: datetime

    @classmethod
    def of(cls, row: Task, versions: Sequence[TaskVersion]) -> "TaskView":
        return cls(
            id=row.id,
            name=row.name,
            version=versions[-1].version if versions else None,
            versions=[VersionView.of(version) for version in versions],
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
