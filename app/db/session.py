"""Engines and transactions; whoever opens a transaction here commits it, and nobody else does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.db.patience import Patience


def make_engine(
    database_url: str, *, pool_size: int = 10, statement_seconds: int | None = None, patience: Patience | None = None
) -> Engine:
    """An engine whose errors never carry parameters, since these hold the tenants' texts.

    The server gives up a statement after `statement_seconds`; a server that no longer answers is given up after half a
    minute, or as `patience` says, which several engines may share.
    """
    patience = patience or Patience()
    limit = {} if statement_seconds is None else {"options": f"-c statement_timeout={statement_seconds}s"}
    engine = create_engine(
        database_url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
            "application_name": "ipt",
        }
        | limit,
    )
    event.listen(engine, "do_connect", lambda _dialect, _record, args, kwargs: patience.connect(*args, **kwargs))
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One transaction: committed when the block ends, rolled back when it raises.

    Rows stay readable after the commit (`expire_on_commit=False`).
    """
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def after_commit(session: Session, action: Callable[[], object]) -> None:
    """Do this once the transaction is committed, and never if it is rolled back."""
    event.listen(session, "after_commit", lambda _: action(), once=True)


def is_gone(error: BaseException) -> bool:
    """Whether an error means that the database is away, full, or no longer takes writes."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is None:  # the driver's own: it got no connection, or lost it
        return True
    # 08 connection, 25006 read only, 40 try again, 53 disk, memory or connections used up,
    # 55 object in use, 57 shut down or cancelled, 58 input and output, XX file damage
    return sqlstate == "25006" or sqlstate[:2] in ("08", "40", "53", "55", "57", "58", "XX")
