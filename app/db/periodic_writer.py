"""A thread that writes what a process has collected in memory to the database a few times a minute."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

WRITE_SECONDS = 2.0
_CLOSE_SECONDS = 3.0

log = logging.getLogger(__name__)


class PeriodicWriter:
    """Calls `write` every `seconds`, and once more at the end; an error of the database is logged."""

    def __init__(self, name: str, write: Callable[[], None], seconds: float) -> None:
        """Start the thread."""
        self._name = name
        self._write = write
        self._seconds = seconds
        self._closing = threading.Event()
        self._close_by = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def begin_close(self) -> None:
        """Let the thread write for the last time and end, without waiting for it; idempotent."""
        if not self._closing.is_set():
            self._close_by = time.monotonic() + _CLOSE_SECONDS
            self._closing.set()

    def close(self) -> None:
        """Write for the last time and end the thread, but wait no longer than a few seconds after `begin_close`."""
        self.begin_close()
        self._thread.join(max(0.0, self._close_by - time.monotonic()))

    def _run(self) -> None:
        ends = False
        while not ends:
            ends = self._closing.wait(self._seconds)
            try:
                self._write()
            except SQLAlchemyError as error:
                log.warning("%s_not_stored: %s", self._name, type(error).__name__)
