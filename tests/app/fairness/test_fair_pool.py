"""A pool's threads are bounded, and a tenant waits only for a turn of the others."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar

import pytest

from app.fairness.fair_pool import FairPool

request: ContextVar[str] = ContextVar("request", default="none")


@pytest.fixture
def pool() -> Iterator[FairPool]:
    pool = FairPool("test", threads=1, quantum=10)
    yield pool
    pool.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(main())


def test_the_work_of_another_tenant_is_next_and_cancelled_work_never_begins(pool: FairPool) -> None:
    gate, done = threading.Event(), list[str]()

    async def work() -> None:
        def blocking() -> None:
            assert gate.wait(30)

        tasks = [asyncio.create_task(pool.run("a", 10, blocking))]
        tasks += [asyncio.create_task(pool.run("a", 10, lambda n=n: done.append(f"a{n}"))) for n in range(5)]
        tasks += [asyncio.create_task(pool.run("b", 1, lambda: done.append("b")))]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(work)
    assert sorted(done) == ["a0", "a2", "a3", "a4", "b"]
    assert done.index("b") <= 1


def test_results_errors_and_context_belong_to_the_caller(pool: FairPool) -> None:
    async def work() -> None:
        request.set("mine")
        assert await pool.run("a", 1, request.get) == "mine"
        with pytest.raises(ZeroDivisionError):
            await pool.run("a", 1, lambda: 1 // 0)
        names = [await pool.run("a", 1, lambda: threading.current_thread().name) for _ in range(3)]
        assert names == ["test_0"] * 3

    run(work)


def test_what_failing_work_held_is_freed_at_once(pool: FairPool) -> None:
    class Body:
        pass

    held: list[weakref.ref[Body]] = []

    def failing() -> None:
        body = Body()
        held.append(weakref.ref(body))
        raise ValueError

    async def work() -> None:
        with pytest.raises(ValueError):
            await pool.run("a", 1, failing)

    gc.disable()
    try:
        run(work)
        assert held[0]() is None, "only the garbage collector would free the body of a refused request"
    finally:
        gc.enable()
