"""Wake workers by a message; without a broker nothing is lost, because workers also poll."""

import logging
from functools import lru_cache
from typing import Any

from app.settings import Settings

log = logging.getLogger(__name__)

WAKE_TASK = "ipt.drain"
WAKE_QUEUE = "ipt"


def wake(settings: Settings) -> None:
    """Send the wake-up message if a broker is configured. Call it after the commit; it never raises."""
    if settings.redis_url is None:
        return
    try:
        _producer(settings.redis_url).send_task(WAKE_TASK, queue=WAKE_QUEUE, ignore_result=True, retry=False)
    except Exception as error:  # noqa: BLE001 - the row is committed, and a polling worker will find it
        log.warning("the broker did not accept the wake-up message: %s", type(error).__name__)


@lru_cache(maxsize=1)
def _producer(redis_url: str) -> Any:
    from celery import Celery

    producer = Celery(broker=redis_url, set_as_current=False)
    producer.conf.update(
        broker_transport_options={"socket_connect_timeout": 1, "socket_timeout": 1, "max_retries": 0},
        broker_connection_retry=False,
        broker_connection_max_retries=0,
    )
    return producer
