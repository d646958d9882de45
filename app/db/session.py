"""Engines and transactions. Only the code that opens a transaction commits it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.db.client_timeout import ClientTimeout
from app.db.row_security import restrict
from app.db.server_timeouts import NO_TIMEOUTS, ServerTimeouts


def make_engine(
    database_url: str,
    *,
    pool_size: int = 10,
    server_timeouts: ServerTimeouts = NO_TIMEOUTS,
    client_timeout: ClientTimeout | None = None,
) -> Engine:
    """Return an engine whose errors never contain statement parameters, since these hold the tenants' texts.

    Args:
        database_url: the URL of a PostgreSQL database.
        pool_size: connections that stay open; as many again are opened under load.
        server_timeouts: the limits that the server enforces on the connections.
        client_timeout: the limit for a server that does not answer, which several engines may share.
    """
    client_timeout = client_timeout or ClientTimeout()
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
            "options": server_timeouts.options(),
        },
    )
    event.listen(engine, "do_connect", lambda _dialect, _record, args, kwargs: client_timeout.connect(*args, **kwargs))
    return engine


@contextmanager
def transaction(engine: Engine, tenant_ids: Collection[str] | None = None) -> Iterator[Session]:
    """Open a transaction: it is committed when the block ends, and rolled back if the block raises.

    With `tenant_ids`, it sees and writes only rows of these tenants. Loaded rows stay readable after the commit
    (`expire_on_commit=False`).
    """
    with read_transaction(engine, tenant_ids) as session, session.begin():
        yield session


@contextmanager
def read_transaction(engine: Engine, tenant_ids: Collection[str] | None = None) -> Iterator[Session]:
    """Open a transaction that only reads; it ends without a COMMIT, whose outcome could be unknown."""
    with Session(engine, expire_on_commit=False) as session:
        if tenant_ids is not None:
            restrict(session, tenant_ids)
        yield session


def after_commit(session: Session, action: Callable[[], object]) -> None:
    """Call `action` when the transaction is committed, and not at all if it is rolled back."""
    event.listen(session, "after_commit", lambda _: action(), once=True)


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error means that the database cannot serve it now: unreachable, full or read-only."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is None:  # an error of the driver itself: no connection, or a lost one
        return True
    # 08 connection, 25006 read-only transaction, 40 transaction rollback, 53 insufficient resources,
    # 55 object not in prerequisite state, 57 operator intervention, 58 system error, XX internal error
    return sqlstate == "25006" or sqlstate[:2] in ("08", "40", "53", "55", "57", "58", "XX")
