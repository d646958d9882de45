"""Dynamic batching: collect rows of all requests of this process into batches for the one backbone."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import ipt
from app.errors import AppError, out_of_memory_error, stopping_error
from app.fairness.fair_queue import FairQueue
from app.predictions import metrics
from ipt.runtime.memory import is_out_of_memory


@dataclass(frozen=True, slots=True)
class Embedding:
    """Asks for a text's embedding instead of a prediction: with the prompt of a task, or without one."""

    task: ipt.BoundTask | None


Row = tuple[ipt.BoundTask | Embedding, list[int]]
"""A task, or what to embed with, and the tokens of a text."""
Predict = Callable[[Sequence[Row]], Sequence[ipt.Prediction]]

PATIENCE = 0.2
"""Longest wait for returning callers, as a fraction of the last batch's time."""
TURN_TOKENS = 256
"""Tokens of a tenant's turn: every batch of the default size has room for 16 turns."""
BATCH_SECONDS = 0.1
"""Time that a batch of an encoder should take: the next text of every tenant waits for it."""
MIN_BATCH_TOKENS = 256
"""Tokens that a batch may have however slow the model is: fewer use it badly."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The predictions of one request in the order of its rows, and its times in seconds."""

    predictions: list[ipt.Prediction]
    queue_seconds: float
    inference_seconds: float

    def embeddings(self) -> list[NDArray[np.float32]]:
        """Return the embeddings [H] of rows that asked for them."""
        return [prediction.embedding for prediction in self.predictions if prediction.embedding is not None]


class PredictionFailedError(AppError):
    """The model failed on rows that passed every check."""

    def __init__(self) -> None:
        super().__init__(
            "the model failed on this input; find the request id in the service's log", code="prediction_failed"
        )


@dataclass(slots=True, eq=False)
class _Request:
    tenant_id: str
    rows: Sequence[Row]
    tokens: Sequence[int]
    future: "Future[Answer]"
    arrived_at: float
    queued_at: float
    batched: int = 0
    """Rows that were put into batches so far."""
    started_at: float | None = None
    inference_seconds: float = 0.0
    predictions: list[ipt.Prediction] = field(default_factory=list)


@dataclass(slots=True)
class _Part:
    """The rows of one request that belong to one batch."""

    request: _Request
    rows: list[Row] = field(default_factory=list)
    tokens: int = 0


class Batcher:
    """A thread that runs batches, and the queue in front of it.

    A batch starts when it is full, or `wait_seconds` after its first request arrived. If several requests were answered
    together, the next batch also waits until as many requests are queued again, for at most `patience` of the last
    batch's time: their callers tend to return at once, and the batch would otherwise contain only the first few.

    A batch has at most `batch_rows` rows and `batch_tokens` tokens including prompts, but at least one row. With
    `batch_seconds`, which may be known later, it also has no more tokens than the model reads in this time, by its
    speed in the last batches: on a processor a batch of long texts would take seconds. Within a batch, tenants take
    turns of `TURN_TOKENS` tokens. A tenant's requests are answered in the order of their arrival, but a request that
    does not fit into one batch continues behind the requests that arrived in the meantime.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        wait_seconds: float,
        batch_rows: int,
        batch_tokens: int,
        batch_seconds: Callable[[], float | None] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        self._predict = predict
        self._patience = patience
        self._batch_tokens = batch_tokens
        self._batch_seconds = batch_seconds
        self._fitting_tokens = MIN_BATCH_TOKENS  # until the speed is known
        self._wait_seconds = wait_seconds
        self._batch_rows = batch_rows
        self._queue: FairQueue[_Request] = FairQueue(TURN_TOKENS)
        self._continuing: list[_Request] = []
        """The requests of which the last batch had only some rows."""
        self._waiting_rows = 0
        self._waiting_tokens = 0
        self._queued_behind = 0
        self._expected_requests = 0
        self._patient_until = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def submit(
        self, tenant_id: str, rows: Sequence[Row], prompt_positions: int, arrived_at: float | None = None
    ) -> "Future[Answer]":
        """Queue the rows of one request. Cancelling the future drops the rows that are not in a batch yet.

        Args:
            tenant_id: the caller's tenant.
            rows: the rows to answer.
            prompt_positions: positions of the prompt, which each row has besides the tokens of its text.
            arrived_at: monotonic time at which the request arrived, so that the lookup of its tasks counts as waiting;
                now when None.

        Raises:
            UnavailableError: the service is stopping.
        """
        now = time.monotonic()
        tokens = [prompt_positions + len(ids) for _, ids in rows]
        request = _Request(tenant_id, rows, tokens, Future(), now if arrived_at is None else arrived_at, now)
        with self._changed:
            if self._closed:
                raise stopping_error()
            self._queue.append(tenant_id, request)
            self._waiting_rows += len(rows)
            self._waiting_tokens += sum(tokens)
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Finish the running batch, fail the requests that wait, and end the thread."""
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
            self._expect_callers_back(parts, time.monotonic() - start)
        for request in self._queue.remove_if(lambda _: True):
            _fail(request, stopping_error())

    def _next_batch(self) -> list[_Part]:
        """Wait for the next batch; empty when closed. No other function decides which rows share a batch."""
        parts: list[_Part] = []
        with self._changed:
            while not parts:
                self._changed.wait_for(lambda: self._queue or self._closed)
                # A request that arrived while the model was busy has already waited.
                first_arrival = min((request.arrived_at for request in self._queue.heads()), default=0.0)
                self._changed.wait_for(self._is_full, first_arrival + self._wait_seconds - time.monotonic())
                self._changed.wait_for(
                    lambda: self._is_full() or len(self._queue) >= self._expected_requests,
                    self._patient_until - time.monotonic(),
                )
                if self._closed:
                    break
                parts = self._take_batch()
        return parts

    def _expect_callers_back(self, parts: Sequence[_Part], seconds: float) -> None:
        """Expect a request from each caller just answered, besides the requests that were queued behind the batch."""
        answered = sum(part.request.future.done() for part in parts)
        with self._changed:
            self._expected_requests = answered + self._queued_behind if answered > 1 else 0
            self._patient_until = time.monotonic() + self._patience * seconds

    def _is_full(self) -> bool:
        """Return whether waiting longer cannot add rows to the batch, or the batcher is closed."""
        rows, tokens = self._waiting_rows >= self._batch_rows, self._waiting_tokens >= self._most_tokens()
        return rows or tokens or self._closed

    def _take_batch(self) -> list[_Part]:
        """Take rows from the queue, up to a batch; none if all their callers have disconnected."""
        parts: dict[_Request, _Part] = {}
        rows, tokens, most_tokens = 0, 0, self._most_tokens()
        for request in self._continuing:
            self._queue.move_behind(request.tenant_id)
        # Their callers have disconnected, or an earlier part failed.
        for request in self._queue.remove_if(lambda request: request.future.done()):
            self._waiting_rows -= len(request.rows) - request.batched
            self._waiting_tokens -= sum(request.tokens[request.batched :])
        while self._queue and rows < self._batch_rows:
            request = self._queue.first()
            row_tokens = request.tokens[request.batched]
            if rows and tokens + row_tokens > most_tokens:
                break
            part = parts.setdefault(request, _Part(request))
            part.rows.append(request.rows[request.batched])
            part.tokens += row_tokens
            request.batched += 1
            rows, tokens = rows + 1, tokens + row_tokens
            if request.batched == len(request.rows):
                self._queue.pop(row_tokens)
            else:
                self._queue.charge(row_tokens)
            request.started_at = request.started_at or time.monotonic()
        self._waiting_rows -= rows
        self._waiting_tokens -= tokens
        self._continuing = [request for request in parts if request.batched < len(request.rows)]
        return list(parts.values())

    def _adapt_to(self, tokens: int, seconds: float) -> None:
        """Set the tokens of the next batches by the time of this one; a small batch says little about a full one."""
        batch_seconds = self._batch_seconds()
        if batch_seconds is None or 2 * tokens < self._fitting_tokens:
            return
        fitting = min(self._batch_tokens, tokens * batch_seconds / max(seconds, 1e-6))
        # Half of the way, because times are noisy.
        self._fitting_tokens = max(MIN_BATCH_TOKENS, round((self._fitting_tokens + fitting) / 2))

    def _most_tokens(self) -> int:
        """Return how many tokens the next batch may have."""
        return self._batch_tokens if self._batch_seconds() is None else min(self._batch_tokens, self._fitting_tokens)

    def _answer(self, parts: list[_Part]) -> None:
        start = time.monotonic()
        try:
            predictions = self._predict([row for part in parts for row in part.rows])
        except Exception as error:  # noqa: BLE001 - the thread must survive any failure of a batch
            if len(parts) == 1:
                failure: AppError = out_of_memory_error() if is_out_of_memory(error) else PredictionFailedError()
                failure.__cause__ = error  # for the log of the request
                _fail(parts[0].request, failure)
                return
            # One request must not fail because of another, so each one runs in its own batch.
            for part in parts:
                self._answer([part])
            return
        seconds = time.monotonic() - start
        self._queued_behind = len(self._queue)  # before any of the callers answered below can return
        metrics.count_batch(predictions)
        self._adapt_to(sum(part.tokens for part in parts), seconds)
        position = 0
        for part in parts:
            request = part.request
            request.predictions.extend(predictions[position : position + len(part.rows)])
            request.inference_seconds += seconds
            position += len(part.rows)
            if len(request.predictions) == len(request.rows):
                _succeed(request)


def _succeed(request: _Request) -> None:
    assert request.started_at is not None
    answer = Answer(request.predictions, request.started_at - request.queued_at, request.inference_seconds)
    if request.future.set_running_or_notify_cancel():
        request.future.set_result(answer)


def _fail(request: _Request, error: AppError) -> None:
    if not request.future.done() and request.future.set_running_or_notify_cancel():
        request.future.set_exception(error)
