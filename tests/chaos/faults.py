"""Fault injection: kills, stops, freezes and disconnects parts of the service, in a random order given by a seed."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import transaction
from tests.chaos.processes import Process, Service
from tests.chaos.recovery import Interruption, interrupted_now, running_adaptations


class FaultInjector:
    """Injects one fault after another; each kind occurs once before any kind is repeated."""

    def __init__(self, service: Service, lease_seconds: float, seed: int, counts: Counter[str]) -> None:
        self._service, self._lease_seconds, self._counts = service, lease_seconds, counts
        self._random = random.Random(seed)
        self._remaining: list[tuple[str, Callable[[], bool]]] = []
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self._hit: tuple[str, ...] = ()
        self.interruptions: list[Interruption] = []

    def random_pause(self, mean_seconds: float) -> float:
        """Return the seconds until the next fault."""
        return self._random.uniform(0.5, 1.5) * mean_seconds

    def end_expired(self) -> None:
        """End the temporary faults that are over."""
        now = time.monotonic()
        due = [undo for at, undo in self._undo if at <= now]
        self._undo = [(at, undo) for at, undo in self._undo if at > now]
        for undo in due:
            undo()

    def end_all(self) -> None:
        """End every temporary fault."""
        for _, undo in self._undo:
            undo()
        self._undo.clear()

    def inject(self) -> str:
        """Inject the next fault that is possible now; return its name, or an empty string if none is possible."""
        if not self._remaining:
            self._remaining = list(self._kinds().items())
            self._random.shuffle(self._remaining)
        for index, (name, cause) in enumerate(self._remaining):
            self._hit = ()
            if cause():
                if self._hit:
                    self.interruptions.append(interrupted_now(name, self._hit))
                del self._remaining[index]
                self._counts[name] += 1
                return name
        return ""

    def _kinds(self) -> dict[str, Callable[[], bool]]:
        service = self._service
        return {
            "worker killed (SIGKILL, with its children)": lambda: self._busy_one_of(service.workers, Process.kill),
            "worker terminated (SIGTERM)": lambda: self._busy_one_of(service.workers, Process.terminate),
            "worker frozen past its lease (SIGSTOP, SIGCONT)": lambda: self._busy_one_of(service.workers, self._freeze),
            "pool process of a Celery worker killed": lambda: self._busy_one_of(
                service.celery_workers, lambda process: process.kill_child()
            ),
            "Celery's main process killed, its pool process orphaned": lambda: self._busy_one_of(
                service.celery_workers, Process.kill_parent
            ),
            "API process killed (SIGKILL)": lambda: self._one_of(service.apis, Process.kill),
            "API process terminated (SIGTERM)": lambda: self._one_of(service.apis, Process.terminate),
            "Redis killed and restarted empty": lambda: self._one_of([service.redis], Process.kill),
            "all connections to PostgreSQL terminated": self._terminate_connections,
            "PostgreSQL killed (SIGKILL)": lambda: self._kill_postgres(signal.SIGKILL),
            "PostgreSQL shut down immediately (SIGQUIT)": lambda: self._kill_postgres(signal.SIGQUIT),
        }

    def _one_of(self, processes: list[Process], act: Callable[[Process], object]) -> bool:
        """Act on a random process that is available; return whether there was one."""
        available = [process for process in processes if process.is_available]
        return bool(available) and act(self._random.choice(available)) is not False

    def _busy_one_of(self, workers: list[Process], act: Callable[[Process], object]) -> bool:
        """Act on a random worker that runs an adaptation, since an idle one has nothing to lose."""
        running = running_adaptations(self._service)
        hit = {worker.name: tuple(id_ for id_, pid in running if pid in worker.pids()) for worker in workers}

        def hit_one(worker: Process) -> object:
            self._hit = hit[worker.name]
            return act(worker)

        return self._one_of([worker for worker in workers if hit[worker.name]], hit_one)

    def _freeze(self, process: Process) -> None:
        process.freeze()
        self._undo.append((time.monotonic() + self._lease_seconds * self._random.uniform(1.2, 2.0), process.thaw))

    def _terminate_connections(self) -> bool:
        terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        try:
            with transaction(self._service.engine) as session:
                others = "WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
                return bool(session.execute(text(f"{terminate} {others}")).scalar())
        except SQLAlchemyError:
            return False  # the database is already down

    def _kill_postgres(self, number: signal.Signals) -> bool:
        try:
            self._service.kill_postgres(number)
        except (OSError, ValueError, IndexError):
            return False  # the database is already down
        return True
