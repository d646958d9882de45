"""Limits for responses that a client does not read: how slowly, and how many bytes all of them may hold in memory."""

from asyncio import WriteTransport

READ_SECONDS = 60.0
READ_BYTES = 512 * 1024
"""A client reads this many bytes within `READ_SECONDS`, or the whole rest of its response."""
MAX_UNREAD_BYTES = 256 * 1024 * 1024
"""Bytes that clients have not read yet, in all connections whose response fills the buffer of its connection."""


class UnreadResponse:
    """The part of a connection's responses that its client has not read yet."""

    def __init__(self, transport: WriteTransport, now: float) -> None:
        self._transport = transport
        self._bytes = 0
        self._since = now
        self._drained = False

    @property
    def size(self) -> int:
        """The bytes that wait to be sent."""
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close the connection without waiting for its client."""
        self._transport.abort()

    def drained(self) -> None:
        """Note that the client has read nearly everything, after which more may have been written."""
        self._drained = True

    def seconds_left(self, now: float) -> float:
        """Return the time that the client has to read further; 0 or less if it is over."""
        size = self.size
        if size == 0 or self._drained or size <= self._bytes - READ_BYTES:
            self._bytes, self._since, self._drained = size, now, False
        self._bytes = max(self._bytes, size)
        return self._since + READ_SECONDS - now


class UnreadResponses:
    """All connections of a process whose client reads more slowly than the service writes."""

    def __init__(self) -> None:
        self._sizes: dict[UnreadResponse, int] = {}  # when they were added, which was the most
        self._bytes = 0

    def add(self, response: UnreadResponse) -> None:
        """Add a connection; if all of them hold too many bytes, close those that wait the longest."""
        if response in self._sizes:
            return
        self._sizes[response] = response.size
        self._bytes += self._sizes[response]
        while self._bytes > MAX_UNREAD_BYTES and len(self._sizes) > 1:
            slowest = next(iter(self._sizes))
            self.discard(slowest)
            slowest.abort()

    def discard(self, response: UnreadResponse) -> None:
        """Remove a connection whose client has read nearly everything, or that is closed."""
        self._bytes -= self._sizes.pop(response, 0)
