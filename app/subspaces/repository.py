"""Queries on subspaces, which all tenants share."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Select, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session, aliased

import ipt
from app.db.models import Adaptation, SubspaceRow, TaskVersion
from app.queue import workers
from ipt.errors import SubspaceError

_MOST_COUNTED = 10_000
"""A larger number is reported as this one, so that a count reads a limited number of rows."""


@dataclass(frozen=True, slots=True)
class Unanswerable:
    """Numbers of tasks and of queued adaptations, each at most `_MOST_COUNTED`."""

    tasks: int
    queued_adaptations: int


def register(session: Session, subspace: "ipt.Subspace") -> None:
    """Insert the row of a loaded subspace unless it exists; call this before using its id.

    Raises:
        SubspaceError: PostgreSQL cannot store the manifest.
    """
    row = {
        "id": subspace.id,
        "intrinsic_dim": subspace.intrinsic_dim,
        "prompt_length": subspace.prompt_length,
        "hidden_size": subspace.hidden_size,
        "manifest": subspace.manifest,
    }
    try:
        session.execute(insert(SubspaceRow).values(row).on_conflict_do_nothing())
    except DataError as error:
        raise SubspaceError(f"the manifest of {subspace.id} has values that PostgreSQL cannot store") from error


def is_registered(session: Session, subspace_id: str) -> bool:
    """Return whether any process of this service has ever loaded this subspace."""
    return session.get(SubspaceRow, subspace_id) is not None


def count_unanswerable(session: Session, answerable: Collection[str]) -> Unanswerable:
    """Count the tasks and the queued adaptations of subspaces that are not in `answerable`.

    The newest version of a task counts. An adaptation that a live worker can tune does not count.
    """
    missing = set(session.scalars(select(SubspaceRow.id).where(SubspaceRow.id.not_in(answerable))))
    if not missing:
        return Unanswerable(0, 0)
    newer = aliased(TaskVersion)
    replaced = exists().where(newer.task_id == TaskVersion.task_id, newer.version > TaskVersion.version)
    tasks = select(TaskVersion.task_id).where(TaskVersion.subspace_id.in_(missing), ~replaced)
    unserved = missing - workers.served_subspaces(session)
    queued = select(Adaptation.id).where(Adaptation.in_state("queued"), Adaptation.subspace_id.in_(unserved))
    return Unanswerable(_count(session, tasks), _count(session, queued))


def _count(session: Session, query: Select[str]) -> int:
    limited = query.limit(_MOST_COUNTED).subquery()
    return session.execute(select(func.count()).select_from(limited)).scalar_one()


def every() -> Select[SubspaceRow]:
    """Select all subspaces."""
    return select(SubspaceRow)
