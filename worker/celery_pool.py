"""What lives in the process of Celery's pool: one drainer, woken by messages and, for when these are lost, a clock."""

import logging
import os
import signal
import threading
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

from celery import shared_task, signals

from app.logs import configure
from app.queue.wake import WAKE_TASK
from app.settings import Settings
from worker import metrics

if TYPE_CHECKING:
    from worker.drain import Drainer

log = logging.getLogger(__name__)

HAND_BACK_SIGNAL = signal.SIGUSR2


class PoolProcess:
    """Drains in whichever thread comes first: that of a message, or the one that wakes up every `reap_seconds`.

    The second is why nothing is lost with a message or a broker; it also reaps while no message comes.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._draining = threading.Lock()

    def start(self) -> None:
        """Install the signals and begin to wake up by the clock."""
        signal.signal(HAND_BACK_SIGNAL, self._on_hand_back)
        signal.signal(signal.SIGTERM, self._on_terminate)
        metrics.serve(self._settings)
        threading.Thread(target=self._wake_by_the_clock, name="clock", daemon=True).start()

    def drain(self) -> None:
        """Drain until nothing is left, after whoever is draining now."""
        from ipt.errors import IptError
        from worker.failures import DeviceLostError

        with self._draining:
            if self._stop.is_set():
                return
            try:
                self._drainer.drain(self._stop)
            except IptError as error:
                log.error("worker_cannot_work: %s", error.message)
            except DeviceLostError as error:
                log.error("device_lost: %s", error)
                os._exit(1)  # from whichever thread; the pool starts a new process

    def stop(self) -> None:
        """Hand back what runs, sign off, and return when that is done."""
        self._stop.set()
        with self._draining:
            if "_drainer" in self.__dict__:  # made for the first adaptation
                self._drainer.leave()

    @cached_property
    def _drainer(self) -> "Drainer":
        # Here, and not at import: Celery's own process imports this module too, and needs no torch.
        from app.db.session import make_engine
        from worker.drain import Drainer
        from worker.model import Core
        from worker.polling import new_worker_id

        if self._settings.database_url is None:
            raise RuntimeError("IPT_DATABASE_URL is not set")
        database = make_engine(self._settings.database_url, pool_size=1)
        return Drainer(database, Core(self._settings), self._settings, new_worker_id())

    def _wake_by_the_clock(self) -> None:
        while not self._stop.is_set():
            self.drain()
            self._stop.wait(self._settings.reap_seconds)

    def _on_hand_back(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Hand back and end; from a thread, because the one that handles signals may be the one that drains."""

        def end() -> None:
            self.stop()
            os._exit(0)

        threading.Thread(target=end, name="end", daemon=True).start()


_process: PoolProcess | None = None


@shared_task(name=WAKE_TASK, ignore_result=True)
def drain() -> None:
    """Wake up, and run whatever is queued."""
    if _process is None:
        raise RuntimeError("this task runs in a worker's pool only")
    _process.drain()


@signals.setup_logging.connect
def _log_as_the_other_processes_do(**_: Any) -> None:
    # Here, because this module is all that the pool's process imports; Celery's own does so too.
    configure(Settings().log_format)


@signals.worker_process_init.connect
def _begin(**_: Any) -> None:
    global _process  # noqa: PLW0603 - Celery gives a task no other place to find what its process holds
    _process = PoolProcess(Settings())
    _process.start()


@signals.worker_process_shutdown.connect
def _end(**_: Any) -> None:
    if _process is not None:
        _process.stop()
