"""An adaptation's events as they happen: server-sent events, which browsers and most HTTP clients can follow."""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import SQLAlchemyError

from app.adaptations import repository
from app.adaptations.schemas import EventView
from app.api_keys import service as api_keys
from app.api_keys.service import Caller
from app.db.dependencies import OpenTransaction
from app.db.models import FINISHED, AdaptationEvent
from app.errors import BusyError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
"""After so long without an event a comment is sent, before a proxy takes the connection for dead."""
_PAGE = 100
_STREAM_RETRY_SECONDS = 5


class OpenStreams:
    """How many streams each tenant follows in this process; each of them asks the database again and again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def check_room(self, tenant_id: str) -> None:
        """Refuse a further one. Requests of the same moment may pass together, a few too many.

        Raises:
            BusyError: the tenant has as many as one may have.
        """
        if self._open[tenant_id] >= self._most:
            raise BusyError(
                f"{self._most} of your event streams are open, which is the most there may be: close some, or ask for "
                "events without `text/event-stream`",
                code="too_many_streams",
                retry_after=_STREAM_RETRY_SECONDS,
            )

    async def counted(self, tenant_id: str, stream: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        """The stream, as one of the tenant's for as long as it is read; in the event loop's thread alone."""
        self._open[tenant_id] += 1
        try:
            async with aclosing(stream):
                async for event in stream:
                    yield event
        finally:
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]


async def follow(
    transaction: OpenTransaction, caller: Caller, adaptation_id: str, after: int, stopping: threading.Event
) -> AsyncGenerator[bytes, None]:
    """Events numbered above `after`, then new ones until the adaptation has ended, or the caller's key is good no more.

    No connection to the database is held in between. A stream that breaks off, as it does when the database is away
    or the service is `stopping`, is taken up again by the client with the number of its last event.
    """
    quiet_since = time.monotonic()
    while not stopping.is_set():
        try:
            events, finished = await run_in_threadpool(_newer, transaction, caller, adaptation_id, after)
        except SQLAlchemyError as error:
            log.warning("an event stream breaks off: %s", type(error).__name__)
            return
        for event in events:
            after = event.seq
            data = EventView.of(event).model_dump_json()
            yield format_sse_event(event=event.type, id=str(event.seq), data_str=data)
        if events:
            quiet_since = time.monotonic()
        elif finished:
            return
        elif time.monotonic() - quiet_since > KEEP_ALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            quiet_since = time.monotonic()
        if len(events) < _PAGE and not finished:
            await asyncio.sleep(POLL_SECONDS)


def _newer(
    transaction: OpenTransaction, caller: Caller, adaptation_id: str, after: int
) -> tuple[list[AdaptationEvent], bool]:
    """The next events, and whether no others can follow them but those already there."""
    with transaction() as session:
        if not api_keys.still_lets_in(session, caller):
            return [], True
        # In this order: the last event is written together with the last state.
        adaptation = repository.get(session, caller.tenant_id, adaptation_id)
        events, _ = repository.events(session, caller.tenant_id, adaptation_id, after=after, limit=_PAGE)
        return events, adaptation is None or adaptation.state in FINISHED
