"""Engines and transactions; whoever opens a transaction here commits it, and nobody else does."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session


def make_engine(database_url: str, *, pool_size: int = 10) -> Engine:
    """An engine whose errors never carry parameters, since these hold the tenants' texts."""
    return create_engine(
        database_url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"connect_timeout": 5, "application_name": "ipt"},
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One transaction: committed when the block ends, rolled back when it raises.

    Rows stay readable after the commit (`expire_on_commit=False`).
    """
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session
