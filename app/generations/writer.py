"""The thread that writes: it takes texts of all callers into one engine, and hands out what comes of them."""

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
"""Called in the writer's thread; must not wait."""


@dataclass(frozen=True, slots=True)
class _Coming:
    request: ipt.GenerationRequest
    sink: Sink


class Writer:
    """A thread around an engine; other threads bring texts and take them back.

    Callers take turns, one text of each. Rows beyond those of a batch wait, at most `queue_rows` of them; who comes
    then is turned away, and so is, for good, a request of more rows than run and wait.
    """

    def __init__(self, engine: ipt.GenerationEngine, *, batch_rows: int, queue_rows: int) -> None:
        self._engine = engine
        self._batch_rows = batch_rows
        self._most_rows = batch_rows + queue_rows
        self._callers: deque[deque[_Coming]] = deque()
        """What each caller has brought and the engine has not taken yet."""
        self._cancelled: set[str] = set()
        self._sinks: dict[str, tuple[Sink, int]] = {}
        """Where each text goes that the engine has, and how many rows it takes. The writer's thread alone has it."""
        self._open_rows = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="generations", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[tuple[ipt.GenerationRequest, Sink]]) -> None:
        """Queue the texts of one caller; each sink is called until its text is finished.

        Raises:
            IptError: parameters that this backbone cannot follow, or more rows than there is ever room for.
            BusyError: the queue is full.
            UnavailableError: the service is stopping.
        """
        for request, _ in texts:
            self._engine.check(request.parameters)
        rows = sum(request.parameters.num_beams for request, _ in texts)
        if rows > self._most_rows:
            raise ipt.IptError(
                f"{len(texts)} texts with their beams are {rows} rows, and at most {self._most_rows} of all callers "
                "run and wait: send fewer texts at a time, or ask for fewer beams",
                param="num_beams",
            )
        with self._changed:
            if self._closed:
                raise stopping_error()
            if self._open_rows + rows > self._most_rows:
                raise BusyError("too many texts are waiting to be written", code="generation_queue_full", retry_after=1)
            self._open_rows += rows
            self._callers.append(deque(_Coming(request, sink) for request, sink in texts))
            self._changed.notify()

    def cancel(self, request_ids: Sequence[str]) -> None:
        """Let these texts leave the batch; those that have ended stay as they are."""
        with self._changed:
            self._cancelled.update(request_ids)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; whoever waits for a text has been told that the service is stopping."""
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
                self._drop(cancelled)
                coming = self._next()
            for one in coming:
                self._add(one)
            for request_id in cancelled:
                self._engine.cancel(request_id)
            if not self._engine.idle:
                self._step()

    def _drop(self, cancelled: Collection[str]) -> None:
        """Forget texts that the engine has not taken."""
        for caller in [
            caller for caller in self._callers if any(one.request.request_id in cancelled for one in caller)
        ]:
            for one in [one for one in caller if one.request.request_id in cancelled]:
                caller.remove(one)
                self._open_rows -= one.request.parameters.num_beams
                metrics.ended([ipt.TextFinished(one.request.request_id, "cancelled", "", 0, 0, False)])
            if not caller:
                self._callers.remove(caller)

    def _next(self) -> list[_Coming]:
        """The texts that the engine takes next: as many as it has room for, so that late callers have their turn."""
        coming: list[_Coming] = []
        room = self._batch_rows - sum(rows for _, rows in self._sinks.values())
        # What has more rows than a batch is written alone.
        while self._callers and (room == self._batch_rows or room >= self._callers[0][0].request.parameters.num_beams):
            caller = self._callers.popleft()
            coming.append(caller.popleft())
            room -= coming[-1].request.parameters.num_beams
            if caller:
                self._callers.append(caller)
        return coming

    def _add(self, one: _Coming) -> None:
        request = one.request
        self._sinks[request.request_id] = (one.sink, request.parameters.num_beams)
        try:
            self._engine.add(request)
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a text does to it
            self._hand_out([_failed(request.request_id, error)])

    def _step(self) -> None:
        prompts = self._engine.prompts
        hits, misses = prompts.hits, prompts.misses
        try:
            events = self._engine.step()
        except Exception as error:  # noqa: BLE001 - as above; what the engine had is lost
            self._engine.clear()
            events = [_failed(request_id, error) for request_id in self._sinks]
        metrics.stepped(self._engine, prompts.hits - hits, prompts.misses - misses)
        self._hand_out(events)

    def _hand_out(self, events: Sequence[ipt.GenerationEvent]) -> None:
        finished = [event for event in events if isinstance(event, ipt.TextFinished)]
        metrics.ended(finished)
        for event in events:
            self._sinks[event.request_id][0](event)
        with self._changed:
            self._open_rows -= sum(self._sinks.pop(event.request_id)[1] for event in finished)


def _failed(request_id: str, error: Exception) -> ipt.TextFinished:
    return ipt.TextFinished(request_id, "failed", "", 0, 0, False, error)
