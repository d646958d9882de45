"""Liveness of a supervised worker: the worker touches a file, and the supervisor watches its modification time.

A database row would not do: steps continue while the database is down. A pipe would not do: it can fill up.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Shortest time between two touches, so that touching costs nothing between the steps of a fast device.
_TOUCH_SECONDS = 1.0


class LivenessFile:
    """The worker's side: the file that it touches."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._touched_at = float("-inf")

    def touch(self) -> None:
        """Touch the file, at most once a second; call it after each unit of work."""
        now = time.monotonic()
        if now - self._touched_at >= _TOUCH_SECONDS:
            self._touched_at = now
            with suppress(OSError):  # without the file the supervisor replaces this worker, so the worker need not fail
                self._file.touch()

    @contextmanager
    def keep_touching(self) -> Iterator[None]:
        """Touch the file from a thread, for work that has no steps and may take any time."""
        done = threading.Event()

        def touch() -> None:
            self.touch()
            while not done.wait(_TOUCH_SECONDS):
                self.touch()

        thread = threading.Thread(target=touch, name="liveness", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class LivenessProbe:
    """The supervisor's side: how long a worker, from its start, has not touched the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._modified = self._modification_time()
        self.started = False
        """Whether the worker has touched the file; before that, Python and its packages load."""
        self.silent_seconds = 0.0

    def check(self, interval: float) -> None:
        """Check the file, `interval` seconds after the last check.

        The caller passes the interval that it waited for, not the time on a clock: if the whole machine was suspended,
        the worker was not silent.
        """
        modified = self._modification_time()
        if modified == self._modified:
            self.silent_seconds += interval
        else:
            self._modified, self.started, self.silent_seconds = modified, True, 0.0

    def _modification_time(self) -> int | None:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return None
