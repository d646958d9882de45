"""Slots are bounded, go to tenants in turns, and are never lost to a cancelled task."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.fairness.fair_slots import FairSlots


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(main())


class Users:
    """Tasks that hold a slot until they are told to end; `order` says who got one."""

    def __init__(self, slots: FairSlots) -> None:
        self.slots = slots
        self.order: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, tenant: str, name: str) -> None:
        self.ends[name] = asyncio.Event()

        async def use() -> None:
            async with self.slots.use(tenant):
                self.order.append(name)
                await self.ends[name].wait()

        self.tasks[name] = asyncio.create_task(use())
        await self.settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
            await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def test_a_flooding_tenant_delays_another_by_one_turn() -> None:
    async def work() -> None:
        users = Users(FairSlots(2))
        for number in range(6):
            await users.start("a", f"a{number}")
        await users.start("b", "b")
        assert users.order == ["a0", "a1"]
        await users.end("a0", "a1")
        assert users.order == ["a0", "a1", "a2", "b"]
        await users.end(*users.ends)
        assert users.order == ["a0", "a1", "a2", "b", "a3", "a4", "a5"]

    run(work)


@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "when its turn comes"])
def test_the_slot_of_a_cancelled_task_goes_to_the_next(late: bool) -> None:
    async def work() -> None:
        users = Users(FairSlots(1))
        for name in ("a0", "a1", "a2"):
            await users.start("a", name)
        if late:
            users.ends["a0"].set()
            await asyncio.sleep(0)  # a0 ends and passes the slot to a1
            await asyncio.sleep(0)
        users.tasks["a1"].cancel()
        await users.settle()
        await users.end("a0")
        assert users.order[-1] == "a2"
        await users.end("a2")
        await users.start("b", "b")
        assert users.order[-1] == "b"

    run(work)
