"""A worker without a broker: polls the queue until it is told to stop or its parent is gone."""

import logging
import os
import secrets
import signal
import socket
import threading
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from app.db import migrate
from app.db.server_timeouts import worker_timeouts
from app.db.session import make_engine
from app.settings import Settings
from ipt.errors import IptError
from ipt.runtime.work_counter import work_counter
from worker import metrics
from worker.drain import Drainer
from worker.failures import DeviceLostError
from worker.lazy_model import LazyModel
from worker.liveness import LivenessFile
from worker.parent_watch import stop_with_parent

log = logging.getLogger(__name__)


def new_worker_id() -> str:
    """Return an id that names the host and the process; the random part makes it unique, since process ids repeat."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def poll(
    settings: Settings,
    database_url: str,
    worker_id: str,
    parent_pid: int | None = None,
    liveness_file: Path | None = None,
    predecessor_end: str | None = None,
) -> int:
    """Run until SIGTERM, SIGINT or the end of the process `parent_pid`, and return the exit status.

    The worker touches `liveness_file` while it makes progress. `predecessor_end` says how the worker that it replaces
    ended, for the adaptations that both lose.
    """
    stop = threading.Event()
    loading = True

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("worker_stopping signal=%s", signal.Signals(number).name)
        if loading:
            os._exit(0)  # nothing is claimed yet, and loading a model may take long
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if parent_pid is not None:
        stop_with_parent(parent_pid, stop)
    log.info("worker_started worker=%s", worker_id)
    metrics.serve(settings)
    timeouts = worker_timeouts(settings.lease_seconds)
    database = make_engine(database_url, pool_size=1, server_timeouts=timeouts)
    liveness = None if liveness_file is None else LivenessFile(liveness_file)
    model = LazyModel(settings, liveness)
    try:
        migrate.check_schema(database)
        model.load()
        loading = False
        with liveness.watch_passes(work_counter) if liveness else nullcontext():
            Drainer(database, model, settings, worker_id, liveness, predecessor_end).poll(stop)
    except (IptError, migrate.SchemaError) as error:
        log.error("worker_cannot_work: %s", error)
        return 1
    except DeviceLostError as error:
        log.error("device_lost: %s", error)
        return 1
    finally:
        database.dispose()
    log.info("worker_stopped worker=%s", worker_id)
    return 0
