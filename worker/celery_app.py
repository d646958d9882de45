"""The Celery app. Its messages only wake a worker; the rows in PostgreSQL are the jobs.

`celery -A worker.celery_app worker` works too; `python -m worker` passes the right arguments.
"""

import os
from typing import Any

from celery import Celery, signals

from app.queue.wake import WAKE_QUEUE
from app.settings import Settings
from worker.celery_pool import RELEASE_SIGNAL


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
        pool = getattr(instance, "pool", None)
        for pid in pool.info["processes"] if pool is not None else ():
            os.kill(pid, RELEASE_SIGNAL)

    signals.worker_shutting_down.connect(signal_pool, weak=False)
