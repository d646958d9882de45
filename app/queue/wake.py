"""Wake workers by a message; without a broker nothing is lost, because workers also poll."""

import logging
import queue
import threading
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

log = logging.getLogger(__name__)

WAKE_TASK = "ipt.drain"
WAKE_QUEUE = "ipt"
RETRY_SECONDS = 5.0
"""Time without messages after the broker has failed; workers that poll find the adaptations meanwhile."""
CLOSE_SECONDS = 3.0
_MAX_PENDING = 100


class Waker:
    """Sends the messages in a thread of its own, so that a broker that hangs delays no request."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._pending: queue.Queue[Context | None] = queue.Queue(_MAX_PENDING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wake-ups", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Send a message soon. Call it after the commit; it never waits and never raises."""
        with suppress(queue.Full):  # the messages that wait already wake every worker
            self._pending.put_nowait(copy_context())

    def close(self) -> None:
        """Send the messages that wait, unless that takes longer than `CLOSE_SECONDS`."""
        self._closed.set()
        with suppress(queue.Full):
            self._pending.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        producer = _producer(self._redis_url)
        while (context := self._pending.get()) is not None:
            try:
                context.run(producer.send_task, WAKE_TASK, queue=WAKE_QUEUE, ignore_result=True, retry=False)
            except Exception as error:  # noqa: BLE001 - the row is committed, and a polling worker will find it
                log.warning("the broker did not accept the wake-up message: %s", type(error).__name__)
                self._closed.wait(RETRY_SECONDS)


def _producer(redis_url: str) -> Any:
    from celery import Celery

    producer = Celery(broker=redis_url, set_as_current=False)
    producer.conf.update(
        broker_transport_options={"socket_connect_timeout": 1, "socket_timeout": 1, "max_retries": 0},
        broker_connection_retry=False,
        broker_connection_max_retries=0,
    )
    return producer
