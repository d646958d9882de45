"""Answer all questions that wait at the same time together: one journey to the database instead of one for each."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from app.db.session import is_gone
from app.errors import stopping

CLOSE_SECONDS = 3.0

Question = TypeVar("Question")
Result = TypeVar("Result")


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
                raised for all, where the database is away; otherwise each question is asked alone, once more.
            name: of the thread.
            most: questions that are answered together.
        """
        self._answer = answer
        self._most = most
        self._waiting: deque[tuple[Question, Future[Result]]] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Question) -> "Future[Result]":
        """Queue a question; one whose future is cancelled before its turn is not asked.

        Raises:
            UnavailableError: the service is stopping.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise stopping()
            self._waiting.append((question, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Answer what has been asked, and end the thread; what takes longer than `CLOSE_SECONDS` is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while asked := self._next():
            self._settle([(question, future) for question, future in asked if future.set_running_or_notify_cancel()])

    def _next(self) -> list[tuple[Question, "Future[Result]"]]:
        """Wait for questions; none when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]

    def _settle(self, asked: Sequence[tuple[Question, "Future[Result]"]]) -> None:
        if not asked:
            return
        try:
            results = self._answer([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a question does to it
            if len(asked) > 1 and not is_gone(error):
                # Something in one of them is bad: nobody shall pay for a neighbour.
                for one in asked:
                    self._settle([one])
                return
            results = [error] * len(asked)
        for (_, future), result in zip(asked, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
