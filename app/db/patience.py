"""How long a statement is waited for. Limits that PostgreSQL keeps are of no use when it is PostgreSQL that hangs."""

import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import psycopg
import sqlalchemy
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

WAIT_SECONDS = 30.0
"""No statement of a request or of a worker's step takes this long on a server that is well."""
_HURRIED_SECONDS = 1.0
_LOOK_SECONDS = 0.5

Result = TypeVar("Result")


class Patience:
    """The limit that the connections of an engine, or of several engines, have in common."""

    def __init__(self, seconds: float | None = None) -> None:
        """`seconds` are those that a statement, or a commit, may be waited for: `WAIT_SECONDS` when None."""
        self.seconds = WAIT_SECONDS if seconds is None else seconds

    def connect(self, *arguments: Any, **parameters: Any) -> "PatientConnection":
        """What psycopg's `connect` does; connecting has a limit of its own, `connect_timeout`."""
        connection = PatientConnection.connect(*arguments, **parameters)
        connection.patience = self
        _watchdog.watch(connection)
        return connection

    def hurry(self) -> None:
        """Give up what is waited for now: the process is to end, and its threads must be free for that."""
        self.seconds = _HURRIED_SECONDS


@contextmanager
def unbounded(connection: sqlalchemy.Connection) -> Iterator[None]:
    """Wait for what this connection does for as long as it takes, as the index of a million rows may take an hour."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, PatientConnection)
    before = driver.patience
    driver.patience = Patience(math.inf)
    try:
        yield
    finally:
        driver.patience = before


class PatientConnection(psycopg.Connection[TupleRow]):
    """Notes since when it waits for the server, in two assignments a statement; the watchdog reads it."""

    patience: Patience
    waiting_since: float | None = None

    def wait(self, gen: PQGen[Result], *arguments: Any, **parameters: Any) -> Result:
        """All that is asked of the server passes here."""
        self.waiting_since = time.monotonic()
        try:
            return super().wait(gen, *arguments, **parameters)
        finally:
            self.waiting_since = None

    def cut_if_stuck(self) -> None:
        """End a wait that is too long, from another thread: who waits is told that the connection is lost."""
        since = self.waiting_since
        if since is None or time.monotonic() - since < self.patience.seconds:
            return
        number = self.pgconn.socket
        # A duplicate, since whoever waits may close the socket now and its number may go to another: it is looked at
        # again once the duplicate holds what the number stood for.
        with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as duplicate:
            if self.waiting_since == since and self.pgconn.socket == number:
                duplicate.shutdown(socket.SHUT_RDWR)
                log.error("database_hangs: gave up waiting after %.1f s", time.monotonic() - since)


class _Watchdog:
    """One thread of the process, which begins with the first connection and looks at all that are in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: WeakSet[PatientConnection] = WeakSet()
        self._thread: threading.Thread | None = None

    def watch(self, connection: PatientConnection) -> None:
        with self._lock:
            self._watched.add(connection)
            if self._thread is None or not self._thread.is_alive():  # a forked process has none of the threads
                self._thread = threading.Thread(target=self._run, name="database-patience", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        with self._lock:
            watched = list(self._watched)
        for connection in watched:
            try:
                connection.cut_if_stuck()
            except psycopg.Error:
                pass  # it was closed meanwhile
            except Exception as error:  # noqa: BLE001 - no file can be opened, say; tried again at the next look
                log.error("database_not_given_up error=%r", error)


_watchdog = _Watchdog()
