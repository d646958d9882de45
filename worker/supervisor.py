"""Keeps one polling worker process running beside `serve`, and stops it together with `serve`."""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from app.settings import Settings
from worker.backoff import Backoff
from worker.liveness import SLACK_SECONDS, HangDetector

log = logging.getLogger(__name__)

# A worker that ran this long did not die from a problem at its start, so the backoff starts over.
_HEALTHY_SECONDS = 60.0
# Longer than a step and the release of its jobs. Shorter than the ten seconds after which most process managers kill
# the service, so that the worker and the database end before that.
_STOP_SECONDS = 8.0
_CHECK_SECONDS = 1.0
# The worker needs no API key, polls even if there is a broker, and gets the URL of the embedded database.
_NOT_PASSED_ON = frozenset({"api_key", "redis_url", "database_url"})


class Supervisor:
    """A context manager that starts the worker on entry and stops it on exit, so that it releases its jobs.

    A worker that ends is replaced. So is a worker that hangs: one that has computed no pass and finished no exchange
    with the database for longer than a lease, of its own processor time while it computes.
    """

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._environment = _environment(settings, database_url)
        self._max_silent_seconds = settings.lease_seconds + SLACK_SECONDS
        # The same id for every child, so that a replacement takes over its predecessor's jobs at once.
        self._worker_id = f"{socket.gethostname()}:supervised:{secrets.token_hex(4)}"
        self._stopping = threading.Event()
        self._stop_by = float("inf")
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._killed_as_hung: int | None = None
        self._last_end: str | None = None
        self._thread = threading.Thread(target=self._keep_running, name="worker-supervisor", daemon=True)
        self._folder = tempfile.TemporaryDirectory(prefix="ipt-worker-", ignore_cleanup_errors=True)
        self._liveness_file = Path(self._folder.name) / "alive"
        self._watch = threading.Thread(target=self._kill_hung, name="worker-watch", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process id of the running worker, or None."""
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    def start(self) -> None:
        """Start the worker without waiting for it."""
        self._thread.start()
        self._watch.start()

    def request_stop(self) -> None:
        """Tell the worker to release its jobs and end, without waiting for it; `stop` waits."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
            self._stop_by = time.monotonic() + _STOP_SECONDS
            child = self._child
        if child is not None:
            child.terminate()

    def stop(self) -> None:
        """Stop the worker and wait for its end; kill it if it does not end in time."""
        self.request_stop()
        self._thread.join(max(0.0, self._stop_by - time.monotonic()))
        child = self._child
        if self._thread.is_alive() and child is not None:
            log.error("worker_killed pid=%d", child.pid)
            child.kill()
            self._thread.join()
        self._watch.join()
        self._folder.cleanup()

    def _keep_running(self) -> None:
        backoff = Backoff(shortest=0.5, longest=30.0)
        while True:
            began = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    return
                self._child = self._spawn()
            status = None if self._child is None else self._child.wait()
            self._last_end = self._described_end(status)
            if self._stopping.is_set():
                return
            if time.monotonic() - began > _HEALTHY_SECONDS:
                backoff.reset()
            wait = backoff.record_failure()
            log.error("worker_died status=%s restart_in=%.1f", status, wait)
            self._stopping.wait(wait)

    def _kill_hung(self) -> None:
        detector = HangDetector(self._liveness_file, self._max_silent_seconds)
        while not self._stopping.wait(_CHECK_SECONDS):
            child = self._child
            if child is not None and child.returncode is None and detector.is_hung(child.pid, _CHECK_SECONDS):
                self._killed_as_hung = child.pid
                child.kill()

    def _described_end(self, status: int | None) -> str | None:
        """Return how the worker ended, as the end of a sentence about it."""
        child = self._child
        if child is None or status is None:
            return None
        if child.pid == self._killed_as_hung:
            limit = self._max_silent_seconds
            return f"was stopped because it made no progress in {limit:.0f} seconds of processor time"
        if status == -signal.SIGKILL:
            return "was killed by the system (signal 9), probably because memory ran out"
        return f"crashed (signal {-status})" if status < 0 else f"ended with exit status {status}"

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        command = [sys.executable, "-m", "worker", "--poll"]
        command += ["--worker-id", self._worker_id, "--parent-pid", str(os.getpid())]
        command += ["--sign-of-life", str(self._liveness_file)]
        command += [] if self._last_end is None else ["--predecessor-end", self._last_end]
        try:
            # Ctrl-C signals the terminal's whole foreground process group. A worker in its own session ends only by
            # `stop`, while the database still runs and can store the released jobs.
            return subprocess.Popen(  # noqa: S603 - a fixed command
                command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            log.error("worker_not_started error=%s", error.strerror)
            return None


def _environment(settings: Settings, database_url: str) -> dict[str, str]:
    """Return this process's environment with these settings instead of its own `IPT_` variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IPT_")}
    for name, value in settings:
        if value is not None and name not in _NOT_PASSED_ON and not isinstance(value, SecretStr):
            environment[f"IPT_{name.upper()}"] = str(value)
    return environment | {"IPT_DATABASE_URL": database_url}
