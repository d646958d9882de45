"""A client-side time limit for statements: a PostgreSQL that hangs does not enforce its own."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
"""No statement of a request or of a worker takes this long on a healthy server."""
_SHUTDOWN_SECONDS = 1.0

Result = TypeVar("Result")


class ClientTimeout:
    """The time limit that the connections of one or several engines share."""

    def __init__(self, seconds: float | None = None) -> None:
        """`seconds` is the limit for one statement or commit; `TIMEOUT_SECONDS` if None."""
        self.seconds = TIMEOUT_SECONDS if seconds is None else seconds

    def connect(self, *arguments: Any, **parameters: Any) -> "TimeoutConnection":
        """Connect as `psycopg.connect` does; connecting itself is limited by `connect_timeout`."""
        connection = TimeoutConnection.connect(*arguments, **parameters)
        connection.client_timeout = self
        return connection

    def shorten(self) -> None:
        """Shorten the limit, also for statements in progress: the process is shutting down and needs its threads."""
        self.seconds = _SHUTDOWN_SECONDS


@contextmanager
def without_timeout(connection: sqlalchemy.Connection) -> Iterator[None]:
    """Lift the limit for a connection: an index on a million rows may take an hour."""
    driver_connection = connection.connection.driver_connection
    assert isinstance(driver_connection, TimeoutConnection)
    before = driver_connection.client_timeout
    driver_connection.client_timeout = ClientTimeout(math.inf)
    try:
        yield
    finally:
        driver_connection.client_timeout = before


class CommitUnknownError(psycopg.OperationalError):
    """The connection was lost during COMMIT: the server may have committed the transaction or rolled it back."""


class TimeoutConnection(psycopg.Connection[TupleRow]):
    """A connection that closes itself when the server does not answer in time."""

    client_timeout: ClientTimeout

    def wait(self, gen: PQGen[Result], *arguments: Any, **parameters: Any) -> Result:
        """Wait for the server; psycopg calls this for everything that it sends."""
        return super().wait(self._limited(gen), *arguments, **parameters)

    def commit(self) -> None:
        """Commit as psycopg does, and distinguish a lost COMMIT from a rejected one.

        Raises:
            CommitUnknownError: the server did not say whether it has committed.
        """
        was_open = not self.closed
        try:
            super().commit()
        except psycopg.OperationalError as error:
            # 08 connection, 57 operator intervention, which can end a connection after the commit
            if was_open and (error.sqlstate is None or error.sqlstate[:2] in ("08", "57")):
                raise CommitUnknownError(str(error)) from error
            raise

    def _limited(self, gen: PQGen[Result]) -> PQGen[Result]:
        """Run psycopg's generator. psycopg resumes it when the socket is ready, and ten times a second otherwise.

        Raises:
            psycopg.OperationalError: the time is over; the connection is closed.
        """
        start = time.monotonic()
        try:
            event = next(gen)
            while True:
                ready = yield event
                if (seconds := time.monotonic() - start) >= self.client_timeout.seconds:
                    log.error("database_hangs: gave up waiting after %.1f s", seconds)
                    self.close()
                    raise psycopg.OperationalError(f"the server did not answer within {seconds:.1f} s")
                event = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result
