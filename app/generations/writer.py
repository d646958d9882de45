"""The thread that generates: it feeds the texts of all callers to one engine and delivers the engine's events."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import ipt
from app.errors import BusyError, stopping_error
from app.generations import metrics

log = logging.getLogger(__name__)

Sink = Callable[[ipt.GenerationEvent], None]
"""Receives the events of one text in the writer's thread; must not block."""


@dataclass(frozen=True, slots=True)
class _Text:
    request: ipt.GenerationRequest
    sink: Sink


class Writer:
    """A thread around an engine; other threads submit and cancel texts.

    Texts start in round robin over callers, one text at a time. At most `batch_rows` rows run and `queue_rows` rows
    wait. A request that finds the queue full is told to retry; a request larger than batch and queue is rejected.
    """

    def __init__(self, engine: ipt.GenerationEngine, *, batch_rows: int, queue_rows: int) -> None:
        self._engine = engine
        self._batch_rows = batch_rows
        self._max_rows = batch_rows + queue_rows
        self._callers: deque[deque[_Text]] = deque()
        """The texts of each caller that the engine does not have yet."""
        self._cancelled: set[str] = set()
        self._sinks: dict[str, tuple[Sink, int]] = {}
        """The sink and the rows of each text in the engine; used by the writer's thread only."""
        self._open_rows = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="generations", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[tuple[ipt.GenerationRequest, Sink]]) -> None:
        """Queue the texts of one caller; each sink receives events until its text has finished.

        Raises:
            IptError: the backbone does not support the parameters, or batch and queue together are too small.
            BusyError: the queue is full.
            UnavailableError: the service is stopping.
        """
        for request, _ in texts:
            self._engine.check(request.parameters)
        rows = sum(request.parameters.num_beams for request, _ in texts)
        if rows > self._max_rows:
            raise ipt.IptError(
                f"{len(texts)} texts with their beams are {rows} rows, and at most {self._max_rows} of all callers "
                "run and wait: send fewer texts at a time, or ask for fewer beams",
                param="num_beams",
            )
        with self._changed:
            if self._closed:
                raise stopping_error()
            if self._open_rows + rows > self._max_rows:
                raise BusyError(
                    "too many texts are waiting to be generated; try again", code="generation_queue_full", retry_after=1
                )
            self._open_rows += rows
            self._callers.append(deque(_Text(request, sink) for request, sink in texts))
            self._changed.notify()

    def cancel(self, request_ids: Sequence[str]) -> None:
        """Remove these texts from queue and batch; ignores texts that have ended."""
        with self._changed:
            self._cancelled.update(request_ids)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; sinks receive no further events, so tell callers first that the service is stopping."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._callers or self._cancelled or self._closed or not self._engine.idle
                )
                if self._closed:
                    return
                cancelled, self._cancelled = self._cancelled, set()
                self._drop_queued(cancelled)
                texts = self._next_texts()
            for text in texts:
                self._add(text)
            for request_id in cancelled:
                self._engine.cancel(request_id)
            if not self._engine.idle:
                self._step()

    def _drop_queued(self, cancelled: Collection[str]) -> None:
        """Drop cancelled texts that the engine does not have yet."""
        for caller in list(self._callers):
            for text in [text for text in caller if text.request.request_id in cancelled]:
                caller.remove(text)
                self._open_rows -= text.request.parameters.num_beams
                metrics.count_ended([ipt.TextFinished(text.request.request_id, "cancelled", "", 0, 0, False)])
            if not caller:
                self._callers.remove(caller)

    def _next_texts(self) -> list[_Text]:
        """Take the next texts for the engine, no more than it has room for, so that later callers get their turn."""
        texts: list[_Text] = []
        room = self._batch_rows - sum(rows for _, rows in self._sinks.values())
        # A text with more rows than a batch runs when the batch is empty.
        while self._callers and (room == self._batch_rows or room >= self._callers[0][0].request.parameters.num_beams):
            caller = self._callers.popleft()
            texts.append(caller.popleft())
            room -= texts[-1].request.parameters.num_beams
            if caller:
                self._callers.append(caller)
        return texts

    def _add(self, text: _Text) -> None:
        request = text.request
        self._sinks[request.request_id] = (text.sink, request.parameters.num_beams)
        try:
            self._engine.add(request)
        except Exception as error:  # noqa: BLE001 - the thread must survive any failure of a text
            self._deliver([_failed(request.request_id, error)])

    def _step(self) -> None:
        prompts = self._engine.prompts
        hits, misses = prompts.hits, prompts.misses
        try:
            events = self._engine.step()
        except Exception as error:  # noqa: BLE001 - as above; the engine's texts are lost
            self._engine.clear()
            events = [_failed(request_id, error) for request_id in self._sinks]
        metrics.count_step(self._engine, prompts.hits - hits, prompts.misses - misses)
        self._deliver(events)

    def _deliver(self, events: Sequence[ipt.GenerationEvent]) -> None:
        finished = [event for event in events if isinstance(event, ipt.TextFinished)]
        metrics.count_ended(finished)
        for event in events:
            self._sinks[event.request_id][0](event)
        with self._changed:
            self._open_rows -= sum(self._sinks.pop(event.request_id)[1] for event in finished)


def _failed(request_id: str, error: Exception) -> ipt.TextFinished:
    return ipt.TextFinished(request_id, "failed", "", 0, 0, False, error)
