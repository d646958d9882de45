"""Background work that waits while callers are being answered."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Foreground:
    """Counts the requests whose callers wait, and lets background work begin between them; for one event loop only.

    A piece of background work that has waited for `patience` seconds begins in any case, so that a service which is
    never idle finishes it too. A piece should be short: requests that arrive meanwhile share the model with it.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request within the context."""
        self._requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def background_turn(self) -> None:
        """Wait until no request is in progress, but no longer than `patience`."""
        try:
            async with asyncio.timeout(self._patience):
                while self._requests:
                    await self._idle.wait()
        except TimeoutError:
            return
