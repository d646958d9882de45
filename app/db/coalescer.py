"""Coalesces questions that wait at the same time, for example into one database query instead of many."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.db.session import is_unavailable
from app.fairness.fair_queue import FairQueue

CLOSE_SECONDS = 3.0
_TENANTS_PER_ANSWER = 8
"""Tenants that get their turn in one call, if all of them have many questions."""

Question = TypeVar("Question")
Result = TypeVar("Result")


class CoalescerClosedError(Exception):
    """A question was asked after the coalescer had been closed: the service is stopping."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Question, Result]):
    question: Question
    size: int
    future: "Future[Result]" = field(default_factory=Future)
    context: Context = field(default_factory=copy_context)


class Coalescer(Generic[Question, Result]):
    """A thread that answers together all questions that arrived while it answered the previous ones.

    It never delays a question to wait for further ones. An answer always reflects the state after its question was
    asked: a question never joins a query that is already running. Tenants take turns.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Result | Exception]], *, name: str, most: int
    ) -> None:
        """Start the thread.

        Args:
            answer: returns, for each question in order, its result or the exception to raise for it. If it raises and
                the database is unreachable, all questions get that exception; otherwise each question is asked once
                more on its own. It runs in the context of the first question, so the trace of a single request
                contains its statements.
            name: the name of the thread.
            most: the total size of the questions that are answered together; a larger question is answered on its own.
        """
        self._answer = answer
        self._most = most
        self._waiting: FairQueue[_Waiting[Question, Result]] = FairQueue(max(1, most // _TENANTS_PER_ANSWER))
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Question, size: int = 1, tenant_id: str = "") -> "Future[Result]":
        """Queue a question of a tenant, if it is known; if its future is cancelled first, it is not asked.

        Raises:
            CoalescerClosedError: `close` was called.
        """
        waiting: _Waiting[Question, Result] = _Waiting(question, size)
        with self._changed:
            if self._closed:
                raise CoalescerClosedError
            self._waiting.append(tenant_id, waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Answer the queued questions and end the thread, but wait for it no longer than `CLOSE_SECONDS`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while self._answer_next():
            pass

    def _answer_next(self) -> bool:
        """Wait for questions and answer them; return False if there are none left because of `close`."""
        batch: list[_Waiting[Question, Result]] = []
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._waiting.remove_if(lambda waiting: waiting.future.cancelled())
            room = self._most
            while self._waiting and (not batch or self._waiting.first().size <= room):
                size = self._waiting.first().size
                batch.append(self._waiting.pop(size))
                room -= size
            ended = self._closed and not batch
        self._settle([waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()])
        return not ended

    def _settle(self, batch: Sequence[_Waiting[Question, Result]]) -> None:
        if not batch:
            return
        try:
            results = batch[0].context.run(self._answer, [waiting.question for waiting in batch])
        except Exception as error:  # noqa: BLE001 - no question may end the thread
            if len(batch) > 1 and not is_unavailable(error):
                # One question may be at fault: it must not fail the others.
                for waiting in batch:
                    self._settle([waiting])
                return
            results = [error] * len(batch)
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)
