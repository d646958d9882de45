"""Answer all questions that wait at the same time together: one journey to the database, say, instead of many."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.db.session import is_gone

CLOSE_SECONDS = 3.0

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
    """A thread that takes all questions which have come while it answered those before; none waits for company.

    A question is answered by what holds after it was asked, never by an answer that was on its way already.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Result | Exception]], *, name: str, most: int
    ) -> None:
        """Start the thread.

        Args:
            answer: the result of each question, in their order, or what to raise for it. What it raises itself is
                raised for all, where the database is away; otherwise each question is asked alone, once more. It runs
                in the context of the first, so that a trace of requests which come singly has all of their statements.
            name: of the thread.
            most: the size of the questions that are answered together; a larger one is answered alone.
        """
        self._answer = answer
        self._most = most
        self._waiting: deque[_Waiting[Question, Result]] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Question, size: int = 1) -> "Future[Result]":
        """Queue a question; one whose future is cancelled before its turn is not asked.

        Raises:
            CoalescerClosedError: `close` was called.
        """
        waiting: _Waiting[Question, Result] = _Waiting(question, size)
        with self._changed:
            if self._closed:
                raise CoalescerClosedError
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Answer what has been asked, and end the thread; what takes longer than `CLOSE_SECONDS` is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while self._answer_next():
            pass

    def _answer_next(self) -> bool:
        """Wait for questions and answer them; whether there were any, and not the end."""
        taken: list[_Waiting[Question, Result]] = []
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            room = self._most
            while self._waiting and (not taken or self._waiting[0].size <= room):
                taken.append(self._waiting.popleft())
                room -= taken[-1].size
        self._settle([one for one in taken if one.future.set_running_or_notify_cancel()])
        return bool(taken)

    def _settle(self, asked: Sequence[_Waiting[Question, Result]]) -> None:
        if not asked:
            return
        try:
            results = asked[0].context.run(self._answer, [one.question for one in asked])
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a question does to it
            if len(asked) > 1 and not is_gone(error):
                # Something in one of them is bad: nobody shall pay for a neighbour.
                for one in asked:
                    self._settle([one])
                return
            results = [error] * len(asked)
        for one, result in zip(asked, results, strict=True):
            if isinstance(result, Exception):
                one.future.set_exception(result)
            else:
                one.future.set_result(result)
