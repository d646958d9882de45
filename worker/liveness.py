"""How a supervised worker shows that its work goes on: it touches a file, whose time its supervisor looks at.

A file and not a row, because the database may be away while work goes on; and not a pipe, which can fill up.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Often enough to be told from silence, and seldom enough to cost nothing between the steps of a fast device.
_EVERY_SECONDS = 1.0


class SignOfLife:
    """The worker's side."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._given_at = float("-inf")

    def give(self) -> None:
        """To be called whenever something is done."""
        now = time.monotonic()
        if now - self._given_at >= _EVERY_SECONDS:
            self._given_at = now
            with suppress(OSError):  # a worker that cannot be seen is replaced; it need not fail before that
                self._file.touch()

    @contextmanager
    def by_the_clock(self) -> Iterator[None]:
        """Give signs for as long as the process runs at all: for what has no steps, and may take any time."""
        done = threading.Event()

        def give() -> None:
            self.give()
            while not done.wait(_EVERY_SECONDS):
                self.give()

        thread = threading.Thread(target=give, name="sign-of-life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class Silence:
    """The supervisor's side: how long a worker that has just been started has given no sign."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last = self._time()
        self.started = False
        """Whether there was a sign at all; before the first one there are Python and its packages to load."""
        self.seconds = 0.0

    def look(self, since_last_look: float) -> None:
        """Look again. The seconds are those one meant to wait: where all was frozen in between, nobody is silent."""
        last = self._time()
        if last == self._last:
            self.seconds += since_last_look
        else:
            self._last, self.started, self.seconds = last, True, 0.0

    def _time(self) -> int | None:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return None
