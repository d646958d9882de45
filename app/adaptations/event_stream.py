"""Stream an adaptation's events as server-sent events while they happen."""

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
_POLLS_PER_SECOND = 64
"""Polls of all streams; with more streams than that allows, each one polls less often."""
KEEP_ALIVE_SECONDS = 15.0
"""Silence after which a comment is sent, before a proxy closes the connection as idle."""
_PAGE_SIZE = 100
_STREAM_RETRY_SECONDS = 5


class OpenStreams:
    """Counts and limits the open streams in this process, because each stream polls the database.

    At most `2 * limit` streams are open. A tenant may not have more of them than stay free, so a single tenant gets
    `limit`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @property
    def poll_seconds(self) -> float:
        """The time between two polls of a stream."""
        return max(POLL_SECONDS, self._open.total() / _POLLS_PER_SECOND)

    def check_room(self, tenant_id: str) -> None:
        """Check that the tenant may open one more stream. Concurrent requests may exceed the limit by a few.

        Raises:
            BusyError: the tenant has reached the limit.
        """
        if self._open[tenant_id] >= 2 * self._limit - self._open.total():
            raise BusyError(
                f"{self._open[tenant_id]} of your event streams are open, which is the limit now: close some, or list "
                "events without `text/event-stream`",
                code="too_many_streams",
                retry_after=_STREAM_RETRY_SECONDS,
            )

    async def counted(self, tenant_id: str, stream: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        """Yield from the stream and count it as open meanwhile; call only from the event loop's thread."""
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
    transaction: OpenTransaction,
    caller: Caller,
    adaptation_id: str,
    after: int,
    open_streams: OpenStreams,
    stopping: threading.Event,
) -> AsyncGenerator[bytes, None]:
    """Yield the events after number `after` until the adaptation has ended or the caller's key is no longer valid.

    It holds no database connection between polls. When the database is unreachable or the service is `stopping`, the
    stream ends early, and the client resumes it from its last event.
    """
    quiet_since = time.monotonic()
    while not stopping.is_set():
        try:
            events, finished = await run_in_threadpool(_newer, transaction, caller, adaptation_id, after)
        except SQLAlchemyError as error:
            log.warning("an event stream ended early: %s", type(error).__name__)
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
        if len(events) < _PAGE_SIZE and not finished:
            await asyncio.sleep(open_streams.poll_seconds)


def _newer(
    transaction: OpenTransaction, caller: Caller, adaptation_id: str, after: int
) -> tuple[list[AdaptationEvent], bool]:
    """Return the next page of events, and whether none can follow."""
    with transaction() as session:
        if not api_keys.is_still_valid(session, caller):
            return [], True
        # Read the state first: the last event is committed together with the final state.
        adaptation = repository.get(session, caller.tenant_id, adaptation_id)
        events, _ = repository.events(session, caller.tenant_id, adaptation_id, after=after, limit=_PAGE_SIZE)
        return events, adaptation is None or adaptation.state in FINISHED
