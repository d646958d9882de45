"""The Celery app, whose messages say only "wake up and drain": the rows in PostgreSQL are the jobs.

Also for `celery -A worker.celery_app worker`; `python -m worker` does the same with the right arguments.
"""

import os
from typing import Any

from celery import Celery, signals

from app.queue.wake import WAKE_QUEUE
from app.settings import Settings
from worker.celery_pool import HAND_BACK_SIGNAL


def create_celery_app(settings: Settings) -> Celery:
    """An app in which losing a message, or getting it twice, does no harm."""
    celery_app = Celery("ipt", broker=settings.redis_url, include=["worker.celery_pool"])
    celery_app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=WAKE_QUEUE,
        # A message is nothing to keep: acknowledged at once, answered never.
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        # One process, since it holds the backbone; spawned, since CUDA cannot be initialised again after a fork.
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
def _hand_back_on_shutdown(instance: Any, **_: Any) -> None:
    """Let the pool's process know of a shutdown, which waits for its task: the task ends at the next step."""

    def tell_pool(**_: Any) -> None:
        pool = getattr(instance, "pool", None)
        for pid in pool.info["processes"] if pool is not None else ():
            os.kill(pid, HAND_BACK_SIGNAL)

    signals.worker_shutting_down.connect(tell_pool, weak=False)
