"""Rows of `subspaces`, which belong to the operator and are the same for every tenant."""

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

import ipt
from app.db.models import SubspaceRow


def register(session: Session, subspace: "ipt.Subspace") -> None:
    """Make sure that a loaded subspace has its row; any process that loads one calls this before using its id."""
    row = {
        "id": subspace.id,
        "intrinsic_dim": subspace.intrinsic_dim,
        "prompt_length": subspace.prompt_length,
        "hidden_size": subspace.hidden_size,
        "manifest": subspace.manifest,
    }
    session.execute(insert(SubspaceRow).values(row).on_conflict_do_nothing())


def exists(session: Session, subspace_id: str) -> bool:
    """Whether a subspace of this id has ever been loaded here."""
    return session.get(SubspaceRow, subspace_id) is not None


def every() -> Select[SubspaceRow]:
    """All subspaces, for a list."""
    return select(SubspaceRow)
