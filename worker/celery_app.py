"""The Celery app. Its messages only wake a worker; the rows in PostgreSQL are the jobs.

`celery -A worker.celery_app worker` works too; `python -m worker` passes the right arguments.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import Celery, signals

from app.queue.wake import WAKE_QUEUE
from app.settings import Settings
from worker.celery_pool import LIVENESS_FILE, RELEASE_SIGNAL
from worker.liveness import SLACK_SECONDS, HangDetector

_CHECK_SECONDS = 1.0


def create_celery_app(settings: Settings) -> Celery:
    """Create an app in which a lost or duplicate message does no harm."""
    celery_app = Celery("ipt", broker=settings.redis_url, include=["worker.celery_pool"])
    celery_app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=WAKE_QUEUE,
        # A message carries no work, so it is acknowledged at once and has no result.
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        # One process, which holds the backbone. It is spawned, because CUDA cannot be initialized again after a fork.
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_concurrency=1,
        worker_proc_alive_timeout=60.0,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True},
    )
    return celery_app


app = create_celery_app(Settings())


def run() -> None:
    """Run the worker until it is told to stop."""
    app.worker_main(["--quiet", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat"])


@signals.celeryd_after_setup.connect
def _release_on_shutdown(instance: Any, **_: Any) -> None:
    """Signal the pool's process on a shutdown: Celery waits for its task, and the signal ends it at the next step."""

    def signal_pool(**_: Any) -> None:
        for pid in _pool_pids(instance):
            os.kill(pid, RELEASE_SIGNAL)

    signals.worker_shutting_down.connect(signal_pool, weak=False)


@signals.celeryd_after_setup.connect
def _replace_hung_process(instance: Any, **_: Any) -> None:
    """Watch the pool's process, which may hang or lose the thread that looks for work; Celery replaces a killed one."""
    folder = tempfile.TemporaryDirectory(prefix="ipt-worker-", ignore_cleanup_errors=True)
    file = Path(folder.name) / "alive"
    os.environ[LIVENESS_FILE] = str(file)
    detector = HangDetector(file, Settings().lease_seconds + SLACK_SECONDS)
    stopping = threading.Event()

    def stop(**_: Any) -> None:
        stopping.set()
        folder.cleanup()

    signals.worker_shutdown.connect(stop, weak=False)
    arguments = (instance, detector, stopping, _CHECK_SECONDS)
    threading.Thread(target=kill_hung, args=arguments, name="pool-watch", daemon=True).start()


def kill_hung(instance: Any, detector: HangDetector, stopping: threading.Event, interval: float) -> None:
    """Kill each process of the worker's pool that hangs, until `stopping` is set."""
    while not stopping.wait(interval):
        for pid in _pool_pids(instance):
            if detector.is_hung(pid, interval):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _pool_pids(instance: Any) -> Sequence[int]:
    """Return the processes of a worker's pool; none until it has started."""
    pool = getattr(instance, "pool", None)
    try:
        return [] if pool is None else list(pool.info["processes"])
    except AttributeError:  # Celery makes its list of processes while the pool starts
        return []
