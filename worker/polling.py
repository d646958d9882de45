"""A worker without a broker: it looks for work by itself until it is told to stop, or its parent is gone."""

import logging
import os
import secrets
import signal
import socket
import threading
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from app.db.session import make_engine
from app.settings import Settings
from ipt.errors import IptError
from worker import metrics
from worker.drain import Drainer
from worker.failures import DeviceLostError
from worker.liveness import SignOfLife
from worker.model import Core
from worker.parent_watch import end_with

log = logging.getLogger(__name__)


def new_worker_id() -> str:
    """Says where a worker runs, and is never given out twice: numbers of processes repeat, across containers too."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def poll(
    settings: Settings,
    database_url: str,
    worker_id: str,
    parent_pid: int | None = None,
    sign_of_life: Path | None = None,
) -> int:
    """Run until SIGTERM, SIGINT or the end of `parent_pid`; returns the exit status.

    `sign_of_life` is a file to touch while work goes on.
    """
    stop = threading.Event()
    loading = True

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("worker_stopping signal=%s", signal.Signals(number).name)
        if loading:
            os._exit(0)  # nothing is claimed yet, and a model may take long
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if parent_pid is not None:
        end_with(parent_pid, stop)
    log.info("worker_started worker=%s", worker_id)
    metrics.serve(settings)
    database = make_engine(database_url, pool_size=1)
    core = Core(settings)
    sign = None if sign_of_life is None else SignOfLife(sign_of_life)
    try:
        with sign.by_the_clock() if sign else nullcontext():
            core.load()
        loading = False
        Drainer(database, core, settings, worker_id, sign).poll(stop)
    except IptError as error:
        log.error("worker_cannot_work: %s", error.message)
        return 1
    except DeviceLostError as error:
        log.error("device_lost: %s", error)
        return 1
    finally:
        database.dispose()
    log.info("worker_stopped worker=%s", worker_id)
    return 0
