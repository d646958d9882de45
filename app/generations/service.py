"""From a task and inputs to texts as they are written: resolve the task, let the writer write, pass on what comes."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from fastapi.concurrency import run_in_threadpool

import ipt
from app.db.ids import new_id
from app.errors import AppError, ConflictError, InvalidError, out_of_memory_error, stopping_error
from app.generations.writer import Sink, Writer
from app.predictions.bound_tasks import TaskKey
from app.predictions.lookup import Question
from app.predictions.model import Model
from app.predictions.service import Predictions
from app.settings import Settings
from ipt.errors import BackboneError, IptError
from ipt.runtime.memory import is_out_of_memory

ENDING_SECONDS = 0.5
"""How long a text that is being written may not notice that the service is stopping."""

KEEP_ALIVE_SECONDS = 15.0
"""After so long without an event a sign of life is due, before a proxy takes the connection for dead."""

IndexedEvent = tuple[int, ipt.GenerationEvent]


class GenerationFailedError(AppError):
    """The model failed on a text that passed every check."""

    def __init__(self) -> None:
        super().__init__("the model failed on this input; the request id finds it in the log", code="generation_failed")


@dataclass(frozen=True)
class Writing:
    """The texts of one request while they are written."""

    key: TaskKey
    """Of the version that answers."""
    events: AsyncGenerator[IndexedEvent | None, None]
    """Each with the number of its input, until all texts have ended; None as a sign of life while nothing happens.

    Closing it takes back the texts that have not ended.
    """
    cancel: Callable[[], None]
    """The same for who may never have begun to read the events; nothing happens where all texts have ended."""


class Generations:
    """Texts for all tasks of all tenants, written in this process."""

    def __init__(self, settings: Settings, model: Model, predictions: Predictions) -> None:
        self._settings = settings
        self._model = model
        self._predictions = predictions
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._most_new_tokens = self._usual_new_tokens = 0

    async def begin(
        self,
        tenant_id: str,
        question: Question,
        inputs: Sequence[str],
        asked: dict[str, object],
        stopping: threading.Event,
    ) -> Writing:
        """Queue texts for inputs of one task, `question`; `asked` are those parameters that the caller named.

        Raises:
            NotFoundError, ConflictError, UnavailableError: as predictions do; the backbone is an encoder.
            InvalidError: parameters that do not go together, or that the backbone cannot follow.
            BusyError: the queue is full.
        """
        key, task = await self._predictions.find(tenant_id, question)
        writer = await run_in_threadpool(self._started)
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[IndexedEvent] = asyncio.Queue()

        def sink(index: int) -> Sink:
            def pass_on(event: ipt.GenerationEvent) -> None:
                with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                    loop.call_soon_threadsafe(queue.put_nowait, (index, event))

            return pass_on

        try:
            parameters = self._parameters(asked)
            requests = [ipt.GenerationRequest(new_id("gen"), task, text, parameters) for text in inputs]
            writer.submit([(request, sink(index)) for index, request in enumerate(requests)])
        except IptError as error:
            raise _invalid(error) from error
        ids = [request.request_id for request in requests]
        return Writing(key, _follow(queue, writer, ids, stopping), partial(writer.cancel, ids))

    def close(self) -> None:
        """Stop writing."""
        if self._writer is not None:
            self._writer.close()

    def _started(self) -> Writer:
        """The writer, which begins with the first text."""
        with self._lock:
            if self._writer is None:
                settings = self._settings
                try:
                    engine = self._model.generation_engine()
                except BackboneError as error:
                    raise ConflictError(error.message, code="backbone_writes_no_text", param="task_id") from error
                self._most_new_tokens = min(settings.max_new_tokens, engine.most_new_tokens)
                self._usual_new_tokens = min(self._most_new_tokens, engine.default_new_tokens)
                self._writer = Writer(
                    engine, batch_rows=settings.generate_batch_rows, queue_rows=settings.generate_queue_rows
                )
            return self._writer

    def _parameters(self, asked: dict[str, object]) -> ipt.GenerationParameters:
        most = self._most_new_tokens
        length = asked.get("max_new_tokens", self._usual_new_tokens)
        assert isinstance(length, int)
        if length > most:
            raise InvalidError(
                f"at most {most} on this service, got {length}", code="too_many_new_tokens", param="max_new_tokens"
            )
        return ipt.GenerationParameters(**(asked | {"max_new_tokens": length}))  # type: ignore[arg-type]


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
                index, event = await asyncio.wait_for(queue.get(), ENDING_SECONDS)
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
