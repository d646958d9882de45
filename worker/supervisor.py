"""Keeps one polling worker process at work beside `serve`, and ends it with it."""

import logging
import os
import secrets
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
from worker.liveness import Silence

log = logging.getLogger(__name__)

# A worker that lived this long was not killed by what it started with.
_HEALTHY_SECONDS = 60.0
# From when the worker was told to end: longer than a step and its last words to the database, and short enough that
# the service is gone, with its database, before whoever stops it loses patience, most often after ten seconds.
_STOP_SECONDS = 8.0
_LOOK_SECONDS = 1.0
# Python and its packages, from a slow disk, on a busy machine; loading the model comes after, and takes what it takes.
_START_SECONDS = 300.0
# A step that outlasts the lease may be of use to nobody any more: it is given so much longer.
_SLACK_SECONDS = 30.0
# The worker answers no callers, and polls although there may be a broker.
_NOT_PASSED_ON = frozenset({"api_key", "redis_url", "database_url"})


class Supervisor:
    """A context manager; entering it starts the worker and leaving it stops the worker, which hands its work back.

    A worker that ends is replaced, and so is one that hangs: that has done no step, and asked the database for nothing,
    for longer than a lease lasts.
    """

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._environment = _environment(settings, database_url)
        self._silent_seconds = settings.lease_seconds + _SLACK_SECONDS
        # The same for every child, so that one inherits at once what the one before was killed with.
        self._worker_id = f"{socket.gethostname()}:supervised:{secrets.token_hex(4)}"
        self._stopping = threading.Event()
        self._end_by = float("inf")
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_alive, name="worker-supervisor", daemon=True)
        self._folder = tempfile.TemporaryDirectory(prefix="ipt-worker-", ignore_cleanup_errors=True)
        self._sign = Path(self._folder.name) / "alive"
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
        """The process id of the worker that runs now."""
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    def start(self) -> None:
        """Start the worker; returns at once."""
        self._thread.start()
        self._watch.start()

    def tell_to_end(self) -> None:
        """Tell the worker to hand back and end; returns at once, and `stop` waits for it."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
            self._end_by = time.monotonic() + _STOP_SECONDS
            child = self._child
        if child is not None:
            child.terminate()

    def stop(self) -> None:
        """Have the worker hand back and end, and kill it when it does not; nothing is left when this returns."""
        self.tell_to_end()
        self._thread.join(max(0.0, self._end_by - time.monotonic()))
        child = self._child
        if self._thread.is_alive() and child is not None:
            log.error("worker_killed pid=%d", child.pid)
            child.kill()
            self._thread.join()
        self._watch.join()
        self._folder.cleanup()

    def _keep_alive(self) -> None:
        backoff = Backoff(first=0.5, most=30.0)
        while True:
            began = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    return
                self._child = self._spawn()
            status = None if self._child is None else self._child.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > _HEALTHY_SECONDS:
                backoff.succeeded()
            wait = backoff.failed()
            log.error("worker_died status=%s restart_in=%.1f", status, wait)
            self._stopping.wait(wait)

    def _kill_hung(self) -> None:
        watched, silence = self._child, Silence(self._sign)
        while not self._stopping.wait(_LOOK_SECONDS):
            child = self._child
            if child is None or child.returncode is not None:
                continue
            if child is not watched:
                watched, silence = child, Silence(self._sign)
            silence.look(_LOOK_SECONDS)
            if silence.seconds > (self._silent_seconds if silence.started else _START_SECONDS):
                log.error("worker_hung pid=%d silent=%.0f", child.pid, silence.seconds)
                child.kill()

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        command = [sys.executable, "-m", "worker", "--poll"]
        command += ["--worker-id", self._worker_id, "--parent-pid", str(os.getpid())]
        command += ["--sign-of-life", str(self._sign)]
        try:
            # Ctrl-C reaches a terminal's whole foreground group; in a session of its own the worker
            # is stopped by `stop` alone, while the database is still there to hand the work back to.
            return subprocess.Popen(  # noqa: S603 - a fixed command
                command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            log.error("worker_not_started error=%s", error.strerror)
            return None


def _environment(settings: Settings, database_url: str) -> dict[str, str]:
    """This process's environment with exactly these settings, wherever they came from."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IPT_")}
    for name, value in settings:
        if value is not None and name not in _NOT_PASSED_ON and not isinstance(value, SecretStr):
            environment[f"IPT_{name.upper()}"] = str(value)
    return environment | {"IPT_DATABASE_URL": database_url}
