"""The process of Celery's pool: one drainer, woken by messages and by a periodic thread in case messages are lost."""

import logging
import os
import signal
import threading
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from celery import shared_task, signals

from app.logs import configure
from app.queue.wake import WAKE_TASK
from app.settings import Settings
from worker import metrics
from worker.liveness import LivenessFile

if TYPE_CHECKING:
    from worker.drain import Drainer

log = logging.getLogger(__name__)

RELEASE_SIGNAL = signal.SIGUSR2
LIVENESS_FILE = "WORKER_LIVENESS_FILE"
"""The environment variable that names the file which the process touches while it makes progress."""
_TOUCH_SECONDS = 1.0


class PoolProcess:
    """Drains in the thread of a message or in the thread that wakes up every `reap_seconds`, one at a time.

    The periodic thread finds work whose message was lost, and reaps expired leases while no message arrives.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._draining = threading.Lock()
        file = os.environ.get(LIVENESS_FILE)
        self._liveness = None if file is None else LivenessFile(Path(file))
        self._watching_passes = ExitStack()

    def start(self) -> None:
        """Install the signal handlers and start the periodic thread."""
        signal.signal(RELEASE_SIGNAL, self._on_release)
        signal.signal(signal.SIGTERM, self._on_terminate)
        metrics.serve(self._settings)
        threading.Thread(target=self._wake_periodically, name="periodic-drain", daemon=True).start()

    def drain(self) -> None:
        """Drain until the queue is empty, after the thread that is draining now."""
        from app.db.migrate import SchemaError
        from ipt.errors import IptError
        from worker.failures import DeviceLostError

        with self._draining:
            if self._stop.is_set():
                return
            try:
                self._drainer.drain(self._stop)
            except (IptError, SchemaError) as error:
                log.error("worker_cannot_work: %s", error)
            except DeviceLostError as error:
                log.error("device_lost: %s", error)
                os._exit(1)  # ends the process from any thread; the pool starts a new process

    def stop(self) -> None:
        """Release the running jobs, sign off, and return after that."""
        self._stop.set()
        with self._draining:
            if "_drainer" in self.__dict__:  # the cached property exists only after the first drain
                self._drainer.sign_off()

    @cached_property
    def _drainer(self) -> "Drainer":
        # Imported here, because Celery's main process imports this module too and needs no torch.
        from app.db.migrate import check_schema
        from app.db.server_timeouts import worker_timeouts
        from app.db.session import make_engine
        from ipt.runtime.work_counter import work_counter
        from worker.drain import Drainer
        from worker.lazy_model import LazyModel
        from worker.polling import new_worker_id

        if self._settings.database_url is None:
            raise RuntimeError("IPT_DATABASE_URL is not set")
        timeouts = worker_timeouts(self._settings.lease_seconds)
        database = make_engine(self._settings.database_url, pool_size=1, server_timeouts=timeouts)
        check_schema(database)
        if self._liveness is not None:
            self._watching_passes.enter_context(self._liveness.watch_passes(work_counter))
        model = LazyModel(self._settings, self._liveness)
        return Drainer(database, model, self._settings, new_worker_id(), self._liveness)

    def _wake_periodically(self) -> None:
        while not self._stop.is_set():
            self.drain()
            # Only this thread touches the file while the process is idle: without it, nothing would look for work.
            due = time.monotonic() + self._settings.reap_seconds
            while (left := due - time.monotonic()) > 0 and not self._stop.wait(min(left, _TOUCH_SECONDS)):
                if self._liveness is not None:
                    self._liveness.touch()

    def _on_release(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Release the jobs and exit, from a new thread: the thread that handles signals may hold the drain lock."""

        def end() -> None:
            self.stop()
            os._exit(0)

        threading.Thread(target=end, name="release-and-exit", daemon=True).start()


_process: PoolProcess | None = None


@shared_task(name=WAKE_TASK, ignore_result=True)
def drain() -> None:
    """Wake up and drain the queue."""
    if _process is None:
        raise RuntimeError("this task runs only in the pool process of a worker")
    _process.drain()


@signals.setup_logging.connect
def _configure_logs(**_: Any) -> None:
    # Here, because the pool's process imports only this module, and Celery's main process imports it too.
    configure(Settings().log_format)


@signals.worker_process_init.connect
def _start_process(**_: Any) -> None:
    global _process  # noqa: PLW0603 - Celery offers no other place for state that a task can reach
    _process = PoolProcess(Settings())
    _process.start()


@signals.worker_process_shutdown.connect
def _stop_process(**_: Any) -> None:
    if _process is not None:
        _process.stop()
