"""Queries on the datasets of a task's versions, including versions that are still tuned."""

from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db.models import Adaptation, Dataset, HeldOutRow

_KEPT = ("queued", "running", "paused", "succeeded")


def of_version(
    session: Session, tenant_id: str, task_id: str, version: int | None
) -> tuple[Adaptation, Dataset] | None:
    """Return the adaptation and the dataset of a version, the newest if `version` is None; None if there is none."""
    query = _versions(tenant_id, task_id).add_columns(Dataset)
    if version is not None:
        query = query.where(Adaptation.task_version == version)
    row = session.execute(query.limit(1)).one_or_none()
    return None if row is None else (row[0], row[1])


def held_out_logits(session: Session, task_id: str, version: int) -> bytes | None:
    """Return the held-out logits of a version; None if it has none."""
    return session.scalar(select(HeldOutRow.logits).where(HeldOutRow.task_id == task_id, HeldOutRow.version == version))


def changes(
    session: Session, tenant_id: str, task_id: str, *, before: int | None, limit: int
) -> list[tuple[Adaptation, str, int, int]]:
    """Return adaptations with the content hash and the sizes of their datasets, newest first, at most `limit`."""
    query = _versions(tenant_id, task_id).add_columns(
        Dataset.content_hash,
        func.jsonb_array_length(Dataset.examples),
        func.coalesce(func.jsonb_array_length(Dataset.validation_examples), 0),
    )
    if before is not None:
        query = query.where(Adaptation.task_version < before)
    return [tuple(row) for row in session.execute(query.limit(limit))]


def _versions(tenant_id: str, task_id: str) -> Select[Any]:
    return (
        select(Adaptation)
        .join(Dataset, Dataset.id == Adaptation.dataset_id)
        .where(Adaptation.tenant_id == tenant_id, Adaptation.task_id == task_id, Adaptation.state.in_(_KEPT))
        .order_by(Adaptation.task_version.desc())
    )
