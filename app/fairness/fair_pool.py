"""A thread pool that serves tenants in turns, for work that would keep the event loop's own threads busy."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.fairness.fair_queue import FairQueue

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Task:
    work: Callable[[], Any]
    cost: int
    future: "Future[Any]" = field(default_factory=Future)


class FairPool:
    """A bounded number of threads; the work of each tenant waits only for a turn of every other tenant."""

    def __init__(self, name: str, *, threads: int, quantum: int) -> None:
        self._tasks: FairQueue[_Task] = FairQueue(quantum)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, tenant_id: str, cost: int, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, which is not begun if the caller is cancelled before its turn."""
        context = copy_context()
        task = _Task(lambda: context.run(work), cost)
        with self._lock:
            self._tasks.append(tenant_id, task)
        self._threads.submit(self._run_next)
        future: asyncio.Future[Result] = asyncio.wrap_future(task.future)
        try:
            return await future
        finally:
            # An exception's traceback holds this frame, which would hold the exception: a cycle around the body.
            del task, future

    def close(self) -> None:
        """Finish the work that has begun or waits."""
        self._threads.shutdown()

    def _run_next(self) -> None:
        with self._lock:
            task = self._tasks.pop(self._tasks.first().cost)
        if not task.future.set_running_or_notify_cancel():
            return
        try:
            task.future.set_result(task.work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            task.future.set_exception(error)
            del task  # as in `run`
