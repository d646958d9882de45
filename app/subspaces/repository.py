"""Rows of `subspaces`, which belong to the operator and are the same for every tenant."""

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

import ipt
from app.db.models import SubspaceRow
from ipt.errors import SubspaceError


def register(session: Session, subspace: "ipt.Subspace") -> None:
    """Make sure that a loaded subspace has its row; any process that loads one calls this before using its id.

    Raises:
        SubspaceError: its manifest holds what the database cannot.
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
        raise SubspaceError(f"the manifest of {subspace.id} holds what PostgreSQL cannot keep") from error


def exists(session: Session, subspace_id: str) -> bool:
    """Whether a subspace of this id has ever been loaded here."""
    return session.get(SubspaceRow, subspace_id) is not None


def every() -> Select[SubspaceRow]:
    """All subspaces, for a list."""
    return select(SubspaceRow)
