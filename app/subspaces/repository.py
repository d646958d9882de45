"""Queries on subspaces, which all tenants share."""

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

import ipt
from app.db.models import SubspaceRow
from ipt.errors import SubspaceError


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


def exists(session: Session, subspace_id: str) -> bool:
    """Return whether any process of this service has ever loaded this subspace."""
    return session.get(SubspaceRow, subspace_id) is not None


def every() -> Select[SubspaceRow]:
    """Select all subspaces."""
    return select(SubspaceRow)
