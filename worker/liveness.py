"""Liveness of a worker: it touches a file, and the process that started it watches the file's modification time.

A database row would not do: steps continue while the database is down. A pipe would not do: it can fill up.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # Celery's main process imports this module, and needs no torch
    from ipt.runtime.work_counter import WorkCounter

log = logging.getLogger(__name__)

SLACK_SECONDS = 30.0
"""Added to the lease, because a step that outlasts the lease has usually lost its job."""
# Shortest time between two touches, so that touching costs nothing between the steps of a fast device.
_TOUCH_SECONDS = 1.0
# Python and its packages load from a slow disk on a busy machine. Loading the model comes later and has no limit.
_START_SECONDS = 300.0
# A worker with less of one processor waits for something rather than computes.
_MIN_SHARE = 0.01


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
        with self._while_alive(lambda: True):
            yield

    @contextmanager
    def watch_passes(self, counter: "WorkCounter") -> Iterator[None]:
        """Touch the file from a thread whenever `counter` has moved: a long step shows that it proceeds."""
        seen = counter.passes

        def has_moved() -> bool:
            nonlocal seen
            before, seen = seen, counter.passes
            return seen != before

        with self._while_alive(has_moved):
            yield

    @contextmanager
    def _while_alive(self, is_alive: Callable[[], bool]) -> Iterator[None]:
        done = threading.Event()

        def touch() -> None:
            while True:
                if is_alive():
                    self.touch()
                if done.wait(_TOUCH_SECONDS):
                    return

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
        """How long the worker has shown no progress, in its processor time while it computes."""

    def check(self, interval: float, processor_seconds: float | None = None) -> None:
        """Check the file, `interval` seconds after the last check.

        The caller passes the interval that it waited for, not the time on a clock: if the whole machine was suspended,
        the worker was not silent. A worker that computes is silent for the processor time that it gets: on a busy
        machine the same step takes longer. A worker that computes nothing is silent for the whole interval.

        Args:
            interval: seconds since the last check.
            processor_seconds: processor time of the worker in that interval; None if it is not known.
        """
        modified = self._modification_time()
        if modified == self._modified:
            computes = processor_seconds is not None and processor_seconds >= _MIN_SHARE * interval
            self.silent_seconds += min(interval, processor_seconds or 0.0) if computes else interval
        else:
            self._modified, self.started, self.silent_seconds = modified, True, 0.0

    def _modification_time(self) -> int | None:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return None


class HangDetector:
    """Finds a worker that makes no progress; its process may be replaced by another one between two checks."""

    def __init__(self, file: Path, max_silent_seconds: float) -> None:
        self._file = file
        self._max_silent_seconds = max_silent_seconds
        self._pid: int | None = None
        self._probe = LivenessProbe(file)
        self._processor_seconds = 0.0

    def is_hung(self, pid: int, interval: float) -> bool:
        """Check this process, `interval` seconds after the last check, and log that it hangs."""
        if pid != self._pid:
            self._pid, self._probe, self._processor_seconds = pid, LivenessProbe(self._file), 0.0
        before, self._processor_seconds = self._processor_seconds, _processor_seconds(pid)
        self._probe.check(interval, max(0.0, self._processor_seconds - before))
        silent = self._probe.silent_seconds
        hung = silent > (self._max_silent_seconds if self._probe.started else _START_SECONDS)
        if hung:
            log.error("worker_hung pid=%d silent=%.0f", pid, silent)
        return hung


def _processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used; 0 if it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
