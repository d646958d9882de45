"""A bounded number of slots on the event loop, which tenants get in turns."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.fairness.fair_queue import FairQueue


class FairSlots:
    """A semaphore that wakes a waiting task of each tenant in turn; for one event loop only."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(quantum=1)

    @asynccontextmanager
    async def use(self, tenant_id: str) -> AsyncIterator[None]:
        """Hold a slot within the context, after waiting for it if none is free."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(tenant_id)
        try:
            yield
        finally:
            self._release()

    async def _turn(self, tenant_id: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(tenant_id, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot came in the same moment
                self._release()
            raise

    def _release(self) -> None:
        """Pass the slot on to the next task that still waits, if there is one."""
        while self._waiting:
            turn = self._waiting.pop(1)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
