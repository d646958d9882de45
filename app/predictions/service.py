"""Answer texts with tasks: look up the tasks, tokenize the texts, and submit both to the batcher."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import ipt
from app.db.coalescer import Coalescer
from app.errors import BusyError, ConflictError
from app.fairness.shared_capacity import SharedCapacity
from app.predictions import metrics
from app.predictions.answer_size import check_answer_size
from app.predictions.batcher import Answer, Batcher, Embedding, Row
from app.predictions.model import Model
from app.predictions.task_cache import CachedTask, TaskKey
from app.predictions.task_lookup import FoundTasks, Question, TaskLookup
from app.predictions.thresholds import Thresholds
from app.settings import Settings
from app.usage.recorder import UsageRecorder

CHARS_PER_TOKENIZATION = 16_384
"""Most characters that are tokenized in one call, which takes a fraction of a second; a single text may have more."""

TokenizedText = tuple[list[int], bool]
"""The tokens of a text, and whether it is longer than the backbone reads."""


@dataclass(frozen=True, slots=True)
class AnsweredQuestions:
    """Predictions for a request's questions, with the task version that answered each."""

    keys: list[TaskKey]
    truncated: list[bool]
    """Whether each text was longer than the backbone reads."""
    tokens: list[int]
    """How many tokens of each text were read."""
    answer: Answer
    thresholds: list[Thresholds]
    """Those of each text's task."""


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """The embeddings [H] of a request's texts, and how many tokens of each were read."""

    embeddings: list[NDArray[np.float32]]
    tokens: list[int]


class Predictions:
    """Answers for all tasks of all tenants in this process."""

    def __init__(self, settings: Settings, model: Model, lookup: TaskLookup, usage: UsageRecorder) -> None:
        self._model = model
        self._lookup = lookup
        self._usage = usage
        self._capacity = SharedCapacity(settings.predict_queue_rows, _too_many_texts)
        self._tokenizer = Coalescer(self._tokenize_all, name="tokenizer", most=CHARS_PER_TOKENIZATION)
        self._batcher = Batcher(
            self._run,
            wait_seconds=settings.predict_wait_ms / 1000,
            batch_rows=settings.predict_batch_rows,
            batch_tokens=settings.predict_batch_tokens,
        )

    async def ask(
        self, tenant_id: str, questions: Sequence[Question], top_k: int | None = None, *, counted: bool = True
    ) -> AnsweredQuestions:
        """Answer each question; the caller sends only the `top_k` highest scores of each answer, all if None.

        If they are `counted`, the answers are part of the tasks' usage, and canaries answer their share.

        Raises:
            NotFoundError: the tenant has no such task, or the task no such version.
            ConflictError: the task is not tuned yet, or was tuned in another subspace than the loaded one.
            InvalidError: the answer could be too large.
            BusyError: too many texts of the tenant are waiting.
            UnavailableError: the model is not loaded, is out of memory, or the service is stopping.
        """
        texts = [question.text for question in questions]
        with self._capacity.use(tenant_id, len(texts)):  # before any work is done for the texts
            lookup = asyncio.wrap_future(self._lookup.find(tenant_id, questions, canaries=counted))
            answered = await self._answer(tenant_id, lookup, texts, top_k)
        if counted:
            self._usage.record(answered.keys, answered.answer.predictions)
        return answered

    async def answer(
        self, tenant_id: str, key: TaskKey, task: CachedTask, texts: Sequence[str], top_k: int | None = None
    ) -> AnsweredQuestions:
        """Answer texts with a task that is no row of the database; raises as `ask` does, without errors of a lookup."""
        with self._capacity.use(tenant_id, len(texts)):
            count = len(texts)
            bounds, thresholds = [task.prediction_bytes] * count, [Thresholds()] * count
            found = FoundTasks([key] * count, [task.task] * count, bounds, thresholds)
            return await self._answer(tenant_id, _completed(found), texts, top_k)

    async def embed(self, tenant_id: str, question: Question | None, texts: Sequence[str]) -> EmbeddedTexts:
        """Embed texts with the prompt of the task that `question` names, or without a prompt if it is None.

        Raises:
            ConflictError: the backbone has no sentence embeddings; or as `ask` does.
            NotFoundError, BusyError, UnavailableError: as `ask` does.
        """
        predictor = self._model.predictor
        if self._model.family != "encoder":
            message = (
                "this service's backbone writes text and has no sentence embeddings: ask a service with an encoder"
            )
            raise ConflictError(message, code="backbone_embeds_no_text", param="model")
        with self._capacity.use(tenant_id, len(texts)):
            lookup = _completed(FoundTasks([], [], [], []))
            if question is not None:
                # A stored vector is compared with later ones, so all come from one version.
                lookup = asyncio.wrap_future(self._lookup.find(tenant_id, [question], canaries=False))
            found, tokenized = await self._read(lookup, tenant_id, texts)
            embedding = Embedding(found.tasks[0] if found.tasks else None)
            rows = [(embedding, ids) for ids, _ in tokenized]
            answer = await asyncio.wrap_future(self._batcher.submit(tenant_id, rows, predictor.prompt_positions))
            return EmbeddedTexts(answer.embeddings(), [len(ids) for ids, _ in tokenized])

    async def _answer(
        self, tenant_id: str, lookup: "asyncio.Future[FoundTasks]", texts: Sequence[str], top_k: int | None
    ) -> AnsweredQuestions:
        arrived_at = time.monotonic()
        found, tokenized = await self._read(lookup, tenant_id, texts)
        check_answer_size(found.prediction_bytes, top_k)
        rows = [(task, ids) for task, (ids, _) in zip(found.tasks, tokenized, strict=True)]
        answer = self._batcher.submit(tenant_id, rows, self._model.predictor.prompt_positions, arrived_at)
        tokens, truncated = [len(ids) for ids, _ in tokenized], [too_long for _, too_long in tokenized]
        return AnsweredQuestions(found.keys, truncated, tokens, await asyncio.wrap_future(answer), found.thresholds)

    async def _read(
        self, lookup: "asyncio.Future[FoundTasks]", tenant_id: str, texts: Sequence[str]
    ) -> tuple[FoundTasks, list[TokenizedText]]:
        """Return the tasks of a lookup, and meanwhile tokenize the texts."""
        tokenizations = [
            asyncio.wrap_future(self._tokenizer.ask(part, sum(map(len, part)), tenant_id)) for part in _parts(texts)
        ]
        try:
            found, parts = await asyncio.gather(lookup, asyncio.gather(*tokenizations))
        finally:
            for tokenization in tokenizations:  # those that have not begun when the lookup fails
                tokenization.cancel()
        tokenized = [text for part in parts for text in part]
        metrics.count_truncated(sum(too_long for _, too_long in tokenized))
        return found, tokenized

    def _run(self, rows: Sequence[Row]) -> list[ipt.Prediction]:
        """Run a batch: predict its rows, and embed those that ask for an embedding."""
        predictor = self._model.predictor
        with self._model.device_turn():
            if not any(isinstance(task, Embedding) for task, _ in rows):
                return predictor.predict(cast(Sequence[tuple[ipt.BoundTask, list[int]]], rows))
            return _embed_and_predict(predictor, rows)

    def close(self) -> None:
        """Stop answering; the caller closes the lookup."""
        self._tokenizer.close()
        self._batcher.close()

    def _tokenize_all(self, parts: Sequence[Sequence[str]]) -> list[list[TokenizedText] | Exception]:
        tokenized = iter(self._model.predictor.read([text for texts in parts for text in texts]))
        return [[next(tokenized) for _ in texts] for texts in parts]


def _embed_and_predict(predictor: ipt.Predictor, rows: Sequence[Row]) -> list[ipt.Prediction]:
    """Answer the rows of a batch in three groups: predicted, embedded with a prompt, embedded without one."""
    predicted, prompted, frozen = [], [], []
    for number, (task, ids) in enumerate(rows):
        if not isinstance(task, Embedding):
            predicted.append((number, (task, ids)))
        elif task.task is not None:
            prompted.append((number, (task.task, ids)))
        else:
            frozen.append((number, ids))
    answers: dict[int, ipt.Prediction] = {}
    answers.update(zip(_firsts(predicted), predictor.predict([row for _, row in predicted]), strict=True))
    embeddings = predictor.embed([row for _, row in prompted]) + predictor.embed_frozen([ids for _, ids in frozen])
    wrapped = (ipt.Prediction(embedding=embedding) for embedding in embeddings)
    answers.update(zip([*_firsts(prompted), *_firsts(frozen)], wrapped, strict=True))
    return [answers[number] for number in range(len(rows))]


def _firsts(pairs: Sequence[tuple[int, Any]]) -> list[int]:
    return [number for number, _ in pairs]


def _completed(found: FoundTasks) -> "asyncio.Future[FoundTasks]":
    future: asyncio.Future[FoundTasks] = asyncio.get_running_loop().create_future()
    future.set_result(found)
    return future


def _too_many_texts() -> BusyError:
    return BusyError(
        "too many of your texts are waiting for predictions: wait for some answers",
        code="prediction_queue_full",
        retry_after=1,
    )


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in order, as many at a time as are tokenized in one call, so that other tenants get turns."""
    part: list[str] = []
    chars = 0
    for text in texts:
        if part and chars + len(text) > CHARS_PER_TOKENIZATION:
            yield part
            part, chars = [], 0
        part.append(text)
        chars += len(text)
    yield part
