"""Generate texts with tasks: look up the task, submit its inputs to the writer, and pass on the writer's events."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi.concurrency import run_in_threadpool

import ipt
from app.db.ids import new_id
from app.errors import AppError, BusyError, ConflictError, InvalidError, out_of_memory_error, stopping_error
from app.fairness.shared_capacity import SharedCapacity
from app.generations.writer import Sink, Writer, reserved_rows
from app.predictions.model import Model
from app.predictions.models import Models
from app.predictions.task_cache import TaskKey
from app.predictions.task_lookup import Question, TaskLookup
from app.settings import Settings
from ipt.errors import BackboneError, IptError
from ipt.runtime.memory import is_out_of_memory

STOP_CHECK_SECONDS = 0.5
"""Interval at which a generation that waits for an event checks whether the service is stopping."""

KEEP_ALIVE_SECONDS = 15.0
"""Silence after which a keep-alive is due, before a proxy closes the connection as idle."""

IndexedEvent = tuple[int, ipt.GenerationEvent]


class GenerationFailedError(AppError):
    """The model failed on a text that passed every check."""

    def __init__(self) -> None:
        super().__init__(
            "the model failed on this input; find the request id in the service's log", code="generation_failed"
        )


@dataclass(frozen=True)
class Generation:
    """The texts of one request while they are generated."""

    key: TaskKey
    """The task and version in use."""
    events: AsyncGenerator[IndexedEvent | None, None]
    """Events with the index of their input, until all texts have ended; None is a keep-alive.

    Closing the generator cancels the texts that have not ended.
    """
    count: int
    """The number of texts."""
    cancel: Callable[[], None]
    """Cancels the texts that have not ended, even if `events` was never iterated."""

    async def texts(self) -> list[ipt.TextFinished]:
        """Return all texts, in the order of their inputs, once they have ended."""
        finished: dict[int, ipt.TextFinished] = {}
        async with aclosing(self.events) as events:
            async for pair in events:
                if pair is not None and isinstance(pair[1], ipt.TextFinished):
                    finished[pair[0]] = pair[1]
        return [finished[index] for index in range(self.count)]


class Generations:
    """Generates texts for all tasks of all tenants in this process."""

    def __init__(self, settings: Settings, models: Models, lookup: TaskLookup) -> None:
        self._settings = settings
        self._models = models
        self._lookup = lookup
        self._max_rows = settings.generate_batch_rows + settings.generate_queue_rows
        self._capacity = SharedCapacity(self._max_rows, _too_many_texts)
        self._lock = threading.Lock()
        self._writers: dict[Model, _WriterWithLimits] = {}

    async def begin(
        self,
        tenant_id: str,
        question: Question,
        inputs: Sequence[str],
        options: dict[str, Any],
        stopping: threading.Event,
    ) -> Generation:
        """Queue a text for each input.

        Args:
            tenant_id: the caller's tenant.
            question: names the task.
            inputs: the inputs of that task.
            options: the arguments of `ipt.GenerationParameters` that the caller has set, `json_schema` as an object.
            stopping: set when the service stops.

        Raises:
            NotFoundError: the tenant has no such task, or the task no such version.
            ConflictError: the task is not tuned yet, or the backbone does not generate text.
            InvalidError: the parameters contradict each other, the backbone does not support them, or the request is
                larger than batch and queue.
            BusyError: too many texts of the tenant are waiting.
            UnavailableError: the model is not loaded, or the service is stopping.
        """
        rows = len(inputs) * options.get("num_beams", 1)
        if rows > self._max_rows:
            raise InvalidError(
                f"{len(inputs)} texts with their beams are {rows} rows, and at most {self._max_rows} of all callers "
                "run and wait: send fewer texts at a time, or ask for fewer beams",
                code="invalid_value",
                param="num_beams",
            )
        self._capacity.take(tenant_id, rows)  # before any work is done for the texts; the writer gives the rows back
        try:
            return await self._submit(tenant_id, question, inputs, options, stopping)
        except BaseException:
            self._capacity.give_back(tenant_id, rows)
            raise

    async def _submit(
        self,
        tenant_id: str,
        question: Question,
        inputs: Sequence[str],
        options: dict[str, Any],
        stopping: threading.Event,
    ) -> Generation:
        found = await asyncio.wrap_future(self._lookup.find(tenant_id, [question]))
        [key], [task] = found.keys, found.tasks
        model = self._models.of_task(task)
        limited = self._writers.get(model)
        if limited is None:
            limited = await run_in_threadpool(self._start_writer, model)
        writer = limited.writer
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[IndexedEvent] = asyncio.Queue()

        def sink(index: int) -> Sink:
            def enqueue(event: ipt.GenerationEvent) -> None:
                with suppress(RuntimeError):  # the event loop is closed, so no one waits for the event
                    loop.call_soon_threadsafe(queue.put_nowait, (index, event))

            return enqueue

        try:
            if "json_schema" in options:
                schema = await run_in_threadpool(writer.read_schema, options["json_schema"])
                options = options | {"json_schema": schema}
            parameters = limited.parameters(options)
            requests = [ipt.GenerationRequest(new_id("gen"), task, text, parameters) for text in inputs]
            writer.submit(tenant_id, [(request, sink(index)) for index, request in enumerate(requests)])
        except IptError as error:
            raise _invalid(error) from error
        ids = [request.request_id for request in requests]
        return Generation(key, _follow(queue, writer, ids, stopping), len(ids), partial(writer.cancel, ids))

    def close(self) -> None:
        """Stop generating."""
        for limited in self._writers.values():
            limited.writer.close()

    def _start_writer(self, model: Model) -> "_WriterWithLimits":
        """Return the writer of a model, which starts with the first request."""
        with self._lock:
            if model not in self._writers:
                settings, rows = self._settings, self._settings.generate_batch_rows
                try:
                    engine = model.new_generation_engine(rows + reserved_rows(rows))
                except BackboneError as error:
                    raise ConflictError(error.message, code="backbone_writes_no_text", param="task_id") from error
                limit = min(settings.max_new_tokens, engine.backbone.max_target_tokens)
                writer = Writer(engine, self._capacity, batch_rows=rows)
                self._writers[model] = _WriterWithLimits(writer, limit, min(limit, engine.default_new_tokens))
            return self._writers[model]


@dataclass(frozen=True, slots=True)
class _WriterWithLimits:
    """The writer of a model, and its limits of the tokens of a text."""

    writer: Writer
    max_new_tokens: int
    default_new_tokens: int

    def parameters(self, options: dict[str, Any]) -> ipt.GenerationParameters:
        """Return the parameters with these options.

        Raises:
            InvalidError: too many tokens are asked for.
            IptError: the parameters contradict each other.
        """
        limit = self.max_new_tokens
        length: int = options.get("max_new_tokens", self.default_new_tokens)
        if length > limit:
            raise InvalidError(
                f"at most {limit} on this service, got {length}", code="too_many_new_tokens", param="max_new_tokens"
            )
        return ipt.GenerationParameters(**(options | {"max_new_tokens": length}))


async def _follow(
    queue: "asyncio.Queue[IndexedEvent]", writer: Writer, request_ids: Sequence[str], stopping: threading.Event
) -> AsyncGenerator[IndexedEvent | None, None]:
    open_ids = set(request_ids)
    quiet_since = time.monotonic()
    try:
        while open_ids:
            if stopping.is_set():
                raise stopping_error()
            try:
                index, event = await asyncio.wait_for(queue.get(), STOP_CHECK_SECONDS)
            except TimeoutError:
                if time.monotonic() - quiet_since > KEEP_ALIVE_SECONDS:
                    quiet_since = time.monotonic()
                    yield None
                continue
            quiet_since = time.monotonic()
            if isinstance(event, ipt.TextFinished):
                open_ids.discard(event.request_id)
                if event.error is not None:
                    raise _failure(event.error)
            yield index, event
    finally:
        if open_ids:
            writer.cancel(sorted(open_ids))


def _too_many_texts() -> BusyError:
    return BusyError(
        "too many of your texts are waiting to be generated: wait for some to end",
        code="generation_queue_full",
        retry_after=1,
    )


def _failure(error: Exception) -> AppError:
    if isinstance(error, IptError):
        return _invalid(error)
    failure: AppError = GenerationFailedError()
    if is_out_of_memory(error):
        failure = out_of_memory_error(", or ask for fewer tokens or beams")
    failure.__cause__ = error  # for the log of the request
    return failure


def _invalid(error: IptError) -> InvalidError:
    return InvalidError(error.message, code="invalid_value", param=error.param)
