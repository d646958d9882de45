"""Queries of what a version was measured on."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Adaptation, Dataset, HeldOutRow, TaskVersion

ScoreSource = Literal["out_of_fold", "held_back"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The bytes of a version's held-out logits or texts, and the rows of its dataset as they number them."""

    data: bytes
    rows: list[dict[str, Any]]
    """The examples, then the validation examples."""
    source: ScoreSource


def held_out(session: Session, version: TaskVersion) -> HeldOut | None:
    """Return what a version was measured on, None if it keeps nothing of that."""
    row = session.execute(
        select(HeldOutRow.logits, Dataset.examples, Dataset.validation_examples, Adaptation.metrics)
        .select_from(TaskVersion)
        .join(HeldOutRow, (HeldOutRow.task_id == TaskVersion.task_id) & (HeldOutRow.version == TaskVersion.version))
        .join(Adaptation, Adaptation.id == TaskVersion.adaptation_id)
        .join(Dataset, Dataset.id == Adaptation.dataset_id)
        .where(
            TaskVersion.tenant_id == version.tenant_id,
            TaskVersion.task_id == version.task_id,
            TaskVersion.version == version.version,
        )
    ).one_or_none()
    if row is None:
        return None
    return HeldOut(row.logits, [*row.examples, *(row.validation_examples or [])], row.metrics["score_source"])
