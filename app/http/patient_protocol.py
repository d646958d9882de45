"""uvicorn's HTTP connection, which does not wait for ever for a request to come to its end.

uvicorn itself limits the time between requests alone: a connection on which nothing is sent, or a request that trickles
in, would be kept, and its file descriptor with it, until no caller is let in any more.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS = "request_seconds"
"""The entry of the app's lifespan state that says in how many seconds a request must have arrived."""


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection on which no request has become whole in time; answers may take as long as they do.

    The time begins with the connection, and again with the first byte of each request.
    """

    _seconds: float
    _waiting_since: float | None
    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._seconds = self.app_state[REQUEST_SECONDS]
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(self._seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to another protocol."""
        self._timer.cancel()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Wait for the request that this may become: whatever is sent, uvicorn no longer takes it for idle."""
        super().data_received(data)
        if self._waiting_since is None and self.timeout_keep_alive_task is None and not self._answers():
            self._waiting_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Wait for this request."""
        super().on_message_begin()
        self._waiting_since = self.loop.time()

    def on_message_complete(self) -> None:
        """Wait no more: from here on it is the caller who waits."""
        super().on_message_complete()
        self._waiting_since = None

    def _answers(self) -> bool:
        """Whether a request that has arrived is being answered; others may have begun to arrive behind it."""
        if self.pipeline:
            return True
        cycle = self.cycle
        # Its type leaves out the None before the first request.
        return cycle is not None and not cycle.more_body and not cycle.response_complete  # type: ignore[redundant-expr]

    def _look(self) -> None:
        """One timer a connection, rather than one a request, which each of them would pay for."""
        now = self.loop.time()
        since = now if self._waiting_since is None or self._answers() else self._waiting_since
        left = since + self._seconds - now
        if left <= 0:
            # Not closed in peace, which would wait for a peer that may read as little as it sends.
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left, self._look)
