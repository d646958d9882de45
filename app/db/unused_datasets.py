"""Deletes datasets together with the last adaptation that uses them."""

from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.models import Adaptation, Dataset


def delete_unused_datasets(session: Session, dataset_ids: Collection[str]) -> None:
    """Delete those of the datasets that no adaptation uses."""
    # A transaction that creates an adaptation locks its dataset: wait for it, then check whether the row is used.
    lock = select(Dataset.id).where(Dataset.id.in_(dataset_ids)).order_by(Dataset.id).with_for_update()
    session.execute(lock).all()
    unused = ~select(Adaptation.id).where(Adaptation.dataset_id == Dataset.id).exists()
    session.execute(delete(Dataset).where(Dataset.id.in_(dataset_ids), unused))
