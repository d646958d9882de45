"""uvicorn's HTTP protocol with limits on what a client costs that has sent no key.

uvicorn's keep-alive timeout only covers the time between requests. A client that sends a request byte by byte, or reads
no response, would hold its connection, and a file descriptor with it, until the process runs out of them. The memory
for a head is unlimited there as well.
"""

import asyncio
import sys
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.errors import AppError, HeadTooLargeError, UnavailableError
from app.http.error_handlers import respond
from app.http.unread_responses import UnreadResponse, UnreadResponses

REQUEST_SECONDS = "request_seconds"
"""The key of the lifespan state for the seconds within which a request must arrive completely."""
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 64
"""Most requests that a connection may send before the first one is answered. Parsing thousands at once would keep the
event loop from every other connection; clients other than attackers hardly ever send a second one."""
_MOST_CONNECTIONS = 4096


def _max_connections() -> int:
    """Return how many connections may be open: half of the process's file descriptors remain for everything else."""
    if sys.platform == "win32":
        return _MOST_CONNECTIONS
    import resource

    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(_MOST_CONNECTIONS, descriptors // 2)


MAX_CONNECTIONS = _max_connections()


class _PipelineFullError(Exception):
    """A connection has sent too many requests before the first one was answered."""


class LimitedProtocol(HttpToolsProtocol):
    """Closes a connection whose request is not complete in time or has too large a head, or whose response is not read.

    A connection that sends many requests before the first one is answered is closed too.

    The time for a request starts with the connection, and again with the first byte of each request. A response may
    take as long as it needs, as long as the client reads what has been written.
    """

    _unread_responses: ClassVar[UnreadResponses] = UnreadResponses()

    _seconds: float
    _waiting_since: float | None
    _timer: asyncio.TimerHandle
    _unread: UnreadResponse
    _head_open = False
    _head_bytes = 0
    _unfinished_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._seconds = self.app_state[REQUEST_SECONDS]
        self._waiting_since = self.loop.time()
        self._unread = UnreadResponse(transport, self._waiting_since)
        self._timer = self.loop.call_later(self._seconds, self._check)
        if len(self.connections) > MAX_CONNECTIONS:
            message = "too many connections are open; try again"
            self._refuse(UnavailableError(message, code="too_many_connections", retry_after=5))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._timer.cancel()
        self._unread_responses.discard(self._unread)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that the client reads more slowly than the service writes."""
        super().pause_writing()
        self._unread_responses.add(self._unread)

    def resume_writing(self) -> None:
        """Note that the client has read what was written."""
        self._unread.drained()
        self._unread_responses.discard(self._unread)
        super().resume_writing()

    def handle_websocket_upgrade(self) -> None:
        """Stop the timer: another protocol takes the connection over."""
        self._timer.cancel()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Wait for the next request as soon as data arrives: uvicorn then stops its keep-alive timeout."""
        if self.transport.is_closing():
            return
        was_open = self._head_open
        super().data_received(data)
        if was_open and self._head_open:  # the parser keeps a header whose end has not arrived
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(_head_too_large())
        if self._waiting_since is None and self.timeout_keep_alive_task is None and not self._responds():
            self._waiting_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Wait for the rest of this request."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _PipelineFullError
        super().on_message_begin()
        self._waiting_since = self.loop.time()
        self._head_open = True
        self._head_bytes = self._unfinished_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the head."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers and their bytes; a trailer, which follows the body, is no header."""
        self._count_head(len(name) + len(value))
        if self._head_open:
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                raise _head_too_large()

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._head_open = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed, whose head is too large, or that is one too many."""
        context = sys.exc_info()[1]
        cause = None if context is None else context.__context__
        if isinstance(cause, _PipelineFullError):
            self.transport.abort()  # an error would stand in place of an earlier response, or in the middle of one
        elif isinstance(cause, AppError):
            self._refuse(cause)
        else:
            super().send_400_response(msg)

    def on_message_complete(self) -> None:
        """Stop waiting: the request is complete."""
        super().on_message_complete()
        self._waiting_since = None

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _head_too_large()

    def _refuse(self, error: AppError) -> None:
        """Send an error and close the connection."""
        response = respond(error)
        headers = b"".join(b"%s: %s\r\n" % header for header in [*response.raw_headers, (b"connection", b"close")])
        self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + bytes(response.body))
        self.transport.close()

    def _responds(self) -> bool:
        """Return whether a complete request is being answered; further ones may have begun to arrive behind it."""
        if self.pipeline:
            return True
        cycle: Any = self.cycle  # None before the first request, which its declared type omits
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _check(self) -> None:
        """Close the connection if a time is over. One timer per connection is cheaper than one per request."""
        now = self.loop.time()
        since = now if self._waiting_since is None or self._responds() else self._waiting_since
        left = min(since + self._seconds - now, self._unread.seconds_left(now))
        if left <= 0:
            # A graceful close would wait for a client that may read as slowly as it sends.
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left, self._check)


def _head_too_large() -> HeadTooLargeError:
    return HeadTooLargeError(
        f"the request's line and headers exceed {MAX_HEAD_BYTES:,} bytes or {MAX_HEADERS} headers: send fewer",
        code="head_too_large",
    )
