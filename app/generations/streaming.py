"""Stream a generation as server-sent events: one loop, and the form of the events that each API has."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.background import BackgroundTask

import ipt
from app.errors import AppError, error_body
from app.generations.service import Generation
from app.http.error_handlers import log_unforeseen

EVENT_STREAM = "text/event-stream"
NOT_BUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers that keep proxies from holding events back."""


class EventForm(ABC):
    """How an API writes the events of one generation; each method returns bytes to send, which may be empty."""

    def begun(self, texts: int) -> bytes:  # noqa: ARG002 - most forms begin with the first piece
        """Return what opens a stream of this many texts."""
        return b""

    @abstractmethod
    def delta(self, index: int, text: str) -> bytes:
        """Return the event of the next piece of a text."""

    @abstractmethod
    def finished(self, index: int, text: ipt.TextFinished) -> bytes:
        """Return the event of a text's end."""

    @abstractmethod
    def failed(self, status: int, body: dict[str, Any]) -> bytes:
        """Return the event of an error, given the response that it would be: the stream's status is sent already."""

    @abstractmethod
    def ended(self, texts: Sequence[ipt.TextFinished]) -> bytes:
        """Return what closes the stream once all texts have ended."""


def streaming_response(
    generation: Generation, form: EventForm, headers: Mapping[str, str] = NOT_BUFFERED
) -> StreamingResponse:
    """Return the response that streams a generation; disconnecting cancels its texts."""
    # If the caller has disconnected already, the stream is never iterated and so cannot cancel its texts.
    cancel = BackgroundTask(generation.cancel)
    return StreamingResponse(
        _events(generation, form), media_type=EVENT_STREAM, headers=dict(headers), background=cancel
    )


async def _events(generation: Generation, form: EventForm) -> AsyncIterator[bytes]:
    texts: dict[int, ipt.TextFinished] = {}
    if opening := form.begun(generation.count):
        yield opening
    try:
        async with aclosing(generation.events) as events:
            async for pair in events:
                if pair is None:
                    yield KEEPALIVE_COMMENT
                    continue
                index, event = pair
                if isinstance(event, ipt.TextDelta):
                    yield form.delta(index, event.text)
                else:
                    texts[index] = event
                    yield form.finished(index, event)
    except AppError as error:
        if error.status == 500:
            log_unforeseen(error.__cause__ or error)
        body = error_body(error.message, type=error.type, code=error.code, param=error.param)
        yield form.failed(error.status, body)
        return
    yield form.ended([texts[index] for index in range(generation.count)])
