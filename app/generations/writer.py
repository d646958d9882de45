"""The thread that generates: it feeds the texts of all callers to one engine and delivers the engine's events."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipt
from app.errors import stopping_error
from app.fairness.fair_queue import FairQueue
from app.fairness.shared_capacity import SharedCapacity
from app.generations import metrics
from ipt.generation.json_format import JsonSchema

log = logging.getLogger(__name__)

Sink = Callable[[ipt.GenerationEvent], None]
"""Receives the events of one text in the writer's thread; must not block."""
TURN_TOKENS = 256
"""Tokens of a tenant's turn: four texts of the default length."""


@dataclass(frozen=True, slots=True)
class _Text:
    tenant_id: str
    request: ipt.GenerationRequest
    sink: Sink

    @property
    def rows(self) -> int:
        return self.request.parameters.num_beams


_Caller = deque[_Text]
"""The texts of one caller that the engine does not have yet; at least one."""


def reserved_rows(batch_rows: int) -> int:
    """Return how many rows the engine needs above `batch_rows` for tenants with nothing running."""
    return max(1, batch_rows // 8)


class Writer:
    """A thread around an engine; other threads submit and cancel texts.

    Tenants take turns of `TURN_TOKENS` tokens to start texts. Within a tenant, texts start in round robin over callers,
    one text at a time. At most `batch_rows` rows run. A tenant with nothing running need not wait for another tenant's
    long texts to end: it may start its next text in the `reserved_rows`.
    """

    def __init__(self, engine: ipt.GenerationEngine, capacity: SharedCapacity, *, batch_rows: int) -> None:
        """`capacity` gets back the rows of each text that ends; the caller of `submit` has taken them."""
        self._engine = engine
        self._capacity = capacity
        self._batch_rows = batch_rows
        self._queue: FairQueue[_Caller] = FairQueue(TURN_TOKENS)
        self._cancelled: set[str] = set()
        self._running: dict[str, _Text] = {}
        """The texts in the engine by their request ids; used by the writer's thread only."""
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="generations", daemon=True)
        self._thread.start()

    def read_schema(self, schema: Mapping[str, Any]) -> JsonSchema:
        """Check a JSON schema for texts of this writer; takes a second at the first call.

        Raises:
            IptError: the schema or the backbone does not allow JSON output.
        """
        checked = JsonSchema.of(schema)
        self._engine.check_schema(checked)
        return checked

    def submit(self, tenant_id: str, texts: Sequence[tuple[ipt.GenerationRequest, Sink]]) -> None:
        """Queue the texts of one caller; each sink receives events until its text has finished.

        Raises:
            IptError: the backbone does not support the parameters.
            UnavailableError: the service is stopping.
        """
        for request, _ in texts:
            self._engine.check(request.parameters)
        with self._changed:
            if self._closed:
                raise stopping_error()
            self._queue.append(tenant_id, deque(_Text(tenant_id, request, sink) for request, sink in texts))
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
                self._changed.wait_for(lambda: self._queue or self._cancelled or self._closed or not self._engine.idle)
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

        def drop(caller: _Caller) -> bool:
            for text in [text for text in caller if text.request.request_id in cancelled]:
                caller.remove(text)
                self._count_ended(text, ipt.TextFinished(text.request.request_id, "cancelled", "", 0, 0, False))
            return not caller

        if cancelled:
            self._queue.remove_if(drop)

    def _next_texts(self) -> list[_Text]:
        """Take the next texts for the engine, no more than it has room for, so that later callers get their turn."""
        texts: list[_Text] = []
        running = list(self._running.values())
        while self._queue and self._give_turn(running + texts):
            caller = self._queue.first()
            text = caller.popleft()
            texts.append(text)
            cost = text.rows * text.request.parameters.max_new_tokens
            if caller:
                self._queue.move_behind(text.tenant_id)
                self._queue.charge(cost)
            else:
                self._queue.pop(cost)
        return texts

    def _give_turn(self, running: Sequence[_Text]) -> bool:
        """Give the turn to a tenant whose next text has room next to the running ones, if there is one."""
        rows, tenant_ids = sum(text.rows for text in running), {text.tenant_id for text in running}
        # A text with more rows than a batch runs when the batch is empty.
        if not rows or rows + self._queue.first()[0].rows <= self._batch_rows:
            return True
        limit = self._batch_rows + reserved_rows(self._batch_rows)
        for text in (caller[0] for caller in self._queue.heads()):
            if text.tenant_id not in tenant_ids and rows + text.rows <= limit:
                self._queue.put_first(text.tenant_id)
                return True
        return False

    def _add(self, text: _Text) -> None:
        request_id = text.request.request_id
        self._running[request_id] = text
        try:
            self._engine.add(text.request)
        except Exception as error:  # noqa: BLE001 - the thread must survive any failure of a text
            self._deliver([_failed(request_id, error)])

    def _step(self) -> None:
        prompts = self._engine.prompts
        hits, misses = prompts.hits, prompts.misses
        try:
            events = self._engine.step()
        except Exception as error:  # noqa: BLE001 - as above; the engine's texts are lost
            self._engine.clear()
            events = [_failed(request_id, error) for request_id in self._running]
        metrics.count_step(self._engine, prompts.hits - hits, prompts.misses - misses)
        self._deliver(events)

    def _deliver(self, events: Sequence[ipt.GenerationEvent]) -> None:
        for event in events:
            self._running[event.request_id].sink(event)
            if isinstance(event, ipt.TextFinished):
                self._count_ended(self._running.pop(event.request_id), event)

    def _count_ended(self, text: _Text, event: ipt.TextFinished) -> None:
        metrics.count_ended(event)
        self._capacity.give_back(text.tenant_id, text.rows)


def _failed(request_id: str, error: Exception) -> ipt.TextFinished:
    return ipt.TextFinished(request_id, "failed", "", 0, 0, False, error)
