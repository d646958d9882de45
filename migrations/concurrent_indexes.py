"""Indexes that are built while other statements read and write the table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import op
from sqlalchemy import TextClause


def create(name: str, table: str, columns: Sequence[str | TextClause], **options: Any) -> None:
    """Build an index; one that an interrupted build has left behind is replaced."""
    with _outside_transactions():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)


def drop(name: str, table: str) -> None:
    """Drop an index."""
    with _outside_transactions():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)


@contextmanager
def _outside_transactions() -> Iterator[None]:
    with op.get_context().autocommit_block():
        # Building an index waits for older transactions, and nothing waits for it.
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute("RESET lock_timeout")
