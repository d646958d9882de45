"""Delivers the outbox: a task of each API process that sends what is due and tries again what has failed.

A message is delivered at least once. Its id stays the same, so that a receiver can recognize a repetition.
"""

import asyncio
import logging
import random
from datetime import timedelta

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import transaction
from app.http.error_handlers import log_unforeseen
from app.openai.webhooks import repository
from app.openai.webhooks.messages import body_of
from app.openai.webhooks.metrics import Outcome, count_delivery
from app.openai.webhooks.repository import ClaimedDelivery
from app.openai.webhooks.sender import NotDeliveredError, Sender, check_accepted

log = logging.getLogger(__name__)

CONCURRENCY = 16
"""Messages in flight in one process, each of another tenant."""
LEASE_SECONDS = 60.0
"""Longer than an attempt takes; a message whose process died is sent again after this time."""
POLL_SECONDS = 2.0
KEEP_TRYING = timedelta(days=1)
_FIRST_WAIT = timedelta(seconds=5)
_LONGEST_WAIT = timedelta(hours=3)
_WAIT_FACTOR = 3.0
_JITTER = 0.2
_RETRY_SECONDS = 5.0


class Deliverer:
    """A task of the event loop that delivers messages until it is cancelled."""

    def __init__(self, engine: Engine, sender: Sender) -> None:
        self._engine = engine
        self._sender = sender
        self._in_flight: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver forever."""
        try:
            while True:
                pause = POLL_SECONDS
                try:
                    await self.start_due()
                except SQLAlchemyError as error:
                    log.warning("webhooks pause: %s", type(error).__name__)
                    pause = _RETRY_SECONDS
                except Exception as error:  # noqa: BLE001 - the task must survive any failure of a turn
                    log_unforeseen(error)
                    pause = _RETRY_SECONDS
                await self._wait(pause)
        finally:
            for task in self._in_flight:
                task.cancel()

    async def start_due(self) -> set[asyncio.Task[None]]:
        """Begin to send what is due, as far as there is room; return all messages in flight."""
        claimed = await run_in_threadpool(self._claim, CONCURRENCY - len(self._in_flight))
        for delivery in claimed:
            task = asyncio.create_task(self._deliver(delivery))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
        return set(self._in_flight)

    async def _wait(self, seconds: float) -> None:
        """Wait until a message has been sent, which lets the next one of its tenant go, or until the time is over."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)

    async def _deliver(self, delivery: ClaimedDelivery) -> None:
        body = body_of(delivery.event_id, delivery.type, delivery.object_id, delivery.created_at)
        error: str | None = None
        try:
            check_accepted(await self._sender.send(delivery.url, delivery.event_id, body, delivery.secrets))
        except NotDeliveredError as failure:
            error = str(failure)
        except Exception as failure:  # noqa: BLE001 - a message that cannot be sent must not be sent forever
            log_unforeseen(failure)
            error = "the message could not be sent; the log of the service says why"
        try:
            await run_in_threadpool(self._store, delivery, error)
        except SQLAlchemyError as failure:
            log.warning("the outcome of webhook %s is lost: %s", delivery.event_id, type(failure).__name__)

    def _claim(self, limit: int) -> list[ClaimedDelivery]:
        with transaction(self._engine) as session:
            return list(repository.claim(session, limit, LEASE_SECONDS))

    def _store(self, delivery: ClaimedDelivery, error: str | None) -> None:
        wait = wait_after(delivery.attempts)
        outcome: Outcome = "delivered"
        if error is not None:
            outcome = "failed" if delivery.age + wait < KEEP_TRYING else "given_up"
        with transaction(self._engine) as session:
            if outcome == "failed":
                repository.postpone(session, delivery, wait)
            else:
                repository.remove_delivery(session, delivery)
            repository.record_error(session, delivery.endpoint_id, error)
        count_delivery(outcome)
        if outcome == "given_up":
            log.warning("webhook_given_up endpoint=%s event=%s", delivery.endpoint_id, delivery.event_id)


def wait_after(attempts: int) -> timedelta:
    """Return the time to wait after the last of some failed attempts: three times as long each time, with jitter."""
    wait = min(_FIRST_WAIT * _WAIT_FACTOR ** min(attempts - 1, 20), _LONGEST_WAIT)
    return wait * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load, protects nothing
