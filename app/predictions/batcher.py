"""Gather rows of any tasks, from all requests of this process, into batches for the one backbone."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import ipt
from app.errors import AppError, BusyError, out_of_memory_error, stopping_error
from app.predictions import metrics
from ipt.runtime.memory import is_out_of_memory

Row = tuple[ipt.BoundTask, list[int]]
"""A task and the tokens of a text."""
Predict = Callable[[Sequence[Row]], Sequence[ipt.Prediction]]

PATIENCE = 0.2
"""Of a batch's time: how long the next one waits, at most, for those whom it has answered to ask again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's predictions, in the order of its rows, and where its time went, in seconds."""

    predictions: list[ipt.Prediction]
    queue_seconds: float
    inference_seconds: float


class PredictionFailedError(AppError):
    """The model failed on rows that passed every check."""

    def __init__(self) -> None:
        super().__init__("the model failed on this input; the request id finds it in the log", code="prediction_failed")


@dataclass(slots=True, eq=False)
class _Request:
    rows: Sequence[Row]
    tokens: Sequence[int]
    future: "Future[Answer]"
    arrived_at: float
    queued_at: float
    taken: int = 0
    started_at: float | None = None
    inference_seconds: float = 0.0
    predictions: list[ipt.Prediction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one request that ride in one batch."""

    request: _Request
    rows: Sequence[Row]


class Batcher:
    """A thread and the queue in front of it; requests come in the order they came, and large ones take turns.

    The first row waits for company until `wait_seconds` after its request arrived. Where several requests were answered
    together, the next batch waits until as many are there again, for at most `patience` of the time that theirs took:
    callers who wait for their answers come back all at once, and would otherwise be met by a batch of the first few.
    A batch has at most `batch_rows` rows and `batch_tokens` tokens, prompts among them (a single row may have more);
    more than `queue_rows` waiting rows are turned away. A request that does not fit into one batch goes on behind those
    that have come meanwhile.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        wait_seconds: float,
        batch_rows: int,
        batch_tokens: int,
        queue_rows: int,
        patience: float = PATIENCE,
    ) -> None:
        self._predict = predict
        self._patience = patience
        self._batch_tokens = batch_tokens
        self._wait_seconds = wait_seconds
        self._batch_rows = batch_rows
        self._queue_rows = queue_rows
        self._queue: deque[_Request] = deque()
        self._waiting_rows = 0
        self._waiting_tokens = 0
        self._behind = 0
        self._expected = 0
        self._patient_until = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row], prompt_length: int, arrived_at: float | None = None) -> "Future[Answer]":
        """Queue one request's rows; cancelling the future takes those back that have not been batched.

        Args:
            rows: the request's.
            prompt_length: tokens that each row costs besides those of its text.
            arrived_at: when the request did, by the monotonic clock; now when None. Looking its tasks up was waiting.

        Raises:
            BusyError: the queue is full.
            UnavailableError: the service is stopping.
        """
        now = time.monotonic()
        tokens = [prompt_length + len(ids) for _, ids in rows]
        request = _Request(rows, tokens, Future(), now if arrived_at is None else arrived_at, now)
        with self._changed:
            if self._closed:
                raise stopping_error()
            # One request is let in whatever its size, or else a small queue would refuse a large one for ever.
            if self._waiting_rows and self._waiting_rows + len(rows) > self._queue_rows:
                raise BusyError("too many predictions are waiting", code="prediction_queue_full", retry_after=1)
            self._queue.append(request)
            self._waiting_rows += len(rows)
            self._waiting_tokens += sum(tokens)
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Answer what is being computed, turn away what still waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            parts = self._next_batch()
            if not parts:
                break
            start = time.monotonic()
            self._answer(parts)
            self._expect_back(parts, time.monotonic() - start)
        for request in self._queue:
            _fail(request, stopping_error())

    def _next_batch(self) -> list[_Part]:
        """Wait for rows, then a little for company; empty when closed. This alone decides which rows ride together."""
        parts: list[_Part] = []
        with self._changed:
            while not parts:
                self._changed.wait_for(lambda: self._queue or self._closed)
                # What came while the model was busy has waited already.
                waited = time.monotonic() - self._queue[0].arrived_at if self._queue else 0.0
                self._changed.wait_for(self._is_full, self._wait_seconds - waited)
                self._changed.wait_for(
                    lambda: self._is_full() or len(self._queue) >= self._expected,
                    self._patient_until - time.monotonic(),
                )
                if self._closed:
                    break
                parts = self._take()
        return parts

    def _expect_back(self, parts: Sequence[_Part], seconds: float) -> None:
        """Note how many requests may soon wait together: those that were behind, and the next of each caller."""
        answered = sum(part.request.future.done() for part in parts)
        with self._changed:
            self._expected = answered + self._behind if answered > 1 else 0
            self._patient_until = time.monotonic() + self._patience * seconds

    def _is_full(self) -> bool:
        """Whether a batch would not hold more than what waits, or there will be none."""
        rows, tokens = self._waiting_rows >= self._batch_rows, self._waiting_tokens >= self._batch_tokens
        return rows or tokens or self._closed

    def _take(self) -> list[_Part]:
        """Rows from the front of the queue, up to a batch; none if all of them were for callers who have gone."""
        parts: list[_Part] = []
        rows_left, tokens_left = self._batch_rows, self._batch_tokens
        if self._queue and self._queue[0].taken:  # it had its turn: now those that came meanwhile
            self._queue.rotate(-1)
        while self._queue:
            request = self._queue[0]
            rest, tokens = request.rows[request.taken :], request.tokens[request.taken :]
            gone = request.future.done()  # the caller has gone, or an earlier part failed
            taken = len(rest) if gone else _fitting(tokens[:rows_left], tokens_left, at_least=0 if parts else 1)
            if not taken:
                break
            if not gone:
                parts.append(_Part(request, rest[:taken]))
                rows_left -= taken
                tokens_left -= sum(tokens[:taken])
                request.started_at = request.started_at or time.monotonic()
            request.taken += taken
            self._waiting_rows -= taken
            self._waiting_tokens -= sum(tokens[:taken])
            if taken < len(rest):
                break
            self._queue.popleft()
        return parts

    def _answer(self, parts: list[_Part]) -> None:
        start = time.monotonic()
        try:
            predictions = self._predict([row for part in parts for row in part.rows])
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a batch does to it
            if len(parts) == 1:
                failure: AppError = out_of_memory_error() if is_out_of_memory(error) else PredictionFailedError()
                failure.__cause__ = error  # for the log of the request
                _fail(parts[0].request, failure)
                return
            # Something in the batch is bad: nobody shall pay for a neighbour, so each request goes alone.
            for part in parts:
                self._answer([part])
            return
        seconds = time.monotonic() - start
        self._behind = len(self._queue)  # before anybody who is answered now can ask again
        metrics.predicted(predictions)
        position = 0
        for part in parts:
            request = part.request
            request.predictions.extend(predictions[position : position + len(part.rows)])
            request.inference_seconds += seconds
            position += len(part.rows)
            if len(request.predictions) == len(request.rows):
                _succeed(request)


def _fitting(tokens: Sequence[int], most: int, *, at_least: int) -> int:
    """How many rows from the first one on fit, by the tokens of each."""
    total = 0
    for number, of_row in enumerate(tokens):
        total += of_row
        if total > most and number >= at_least:
            return number
    return len(tokens)


def _succeed(request: _Request) -> None:
    assert request.started_at is not None
    answer = Answer(request.predictions, request.started_at - request.queued_at, request.inference_seconds)
    if request.future.set_running_or_notify_cancel():
        request.future.set_result(answer)


def _fail(request: _Request, error: AppError) -> None:
    if not request.future.done() and request.future.set_running_or_notify_cancel():
        request.future.set_exception(error)
