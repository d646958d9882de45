"""uvicorn's HTTP protocol with a time limit for incomplete requests.

uvicorn's keep-alive timeout only covers the time between requests. A client that connects and sends nothing, or sends a
request byte by byte, would hold its connection, and a file descriptor with it, until the process runs out of them.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS = "request_seconds"
"""The key of the lifespan state for the seconds within which a request must arrive completely."""


class LimitedProtocol(HttpToolsProtocol):
    """Closes a connection if no request is complete in time; responses may take as long as they need.

    The time starts with the connection, and again with the first byte of each request.
    """

    _seconds: float
    _waiting_since: float | None
    _timer: asyncio.TimerHandle

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._seconds = self.app_state[REQUEST_SECONDS]
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(self._seconds, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Stop the timer: another protocol takes the connection over."""
        self._timer.cancel()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Wait for the next request as soon as data arrives: uvicorn then stops its keep-alive timeout."""
        super().data_received(data)
        if self._waiting_since is None and self.timeout_keep_alive_task is None and not self._responds():
            self._waiting_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Wait for the rest of this request."""
        super().on_message_begin()
        self._waiting_since = self.loop.time()

    def on_message_complete(self) -> None:
        """Stop waiting: the request is complete."""
        super().on_message_complete()
        self._waiting_since = None

    def _responds(self) -> bool:
        """Return whether a complete request is being answered; further ones may have begun to arrive behind it."""
        if self.pipeline:
            return True
        cycle: Any = self.cycle  # None before the first request, which its declared type omits
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _check(self) -> None:
        """Close the connection if its time is over. One timer per connection is cheaper than one per request."""
        now = self.loop.time()
        since = now if self._waiting_since is None or self._responds() else self._waiting_since
        left = since + self._seconds - now
        if left <= 0:
            # A graceful close would wait for a client that may read as slowly as it sends.
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left, self._check)
