"""Answer texts with tasks: look up the tasks, tokenize the texts, and submit both to the model of each task."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import ipt
from app.errors import BusyError, ConflictError
from app.fairness.shared_capacity import SharedCapacity
from app.kept_texts.recorder import TextRecorder
from app.predictions import metrics
from app.predictions.answer_size import check_answer_size
from app.predictions.batcher import Answer, Embedding
from app.predictions.lane import Lane, TokenizedText
from app.predictions.model import Model
from app.predictions.models import Models
from app.predictions.task_cache import CachedTask, TaskKey
from app.predictions.task_lookup import FoundTasks, Question, TaskLookup
from app.predictions.thresholds import Thresholds
from app.settings import Settings
from app.usage.recorder import UsageRecorder


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

    def __init__(
        self, settings: Settings, models: Models, lookup: TaskLookup, usage: UsageRecorder, kept_texts: TextRecorder
    ) -> None:
        self._models = models
        self._lookup = lookup
        self._usage = usage
        self._kept_texts = kept_texts
        self._capacity = SharedCapacity(settings.predict_queue_rows, _too_many_texts)
        self._lanes = {model: Lane(settings, model) for model in models.all}

    async def ask(
        self, tenant_id: str, questions: Sequence[Question], top_k: int | None = None, *, counted: bool = True
    ) -> AnsweredQuestions:
        """Answer each question; the caller sends only the `top_k` highest scores of each answer, all if None.

        If they are `counted`, the answers are part of the tasks' usage, canaries answer their share, and the texts of
        a tenant that keeps its texts are kept.

        Raises:
            NotFoundError: the tenant has no such task, or the task no such version.
            ConflictError: the task is not tuned yet, or was tuned in another subspace than the loaded ones.
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
            self._kept_texts.record(tenant_id, answered.keys, texts, answered.answer.predictions)
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

    async def model_of(self, tenant_id: str, question: Question) -> Model:
        """Return the model that answers a question's task; raises as `ask` does."""
        if len(self._lanes) == 1:
            return self._models.all[0]
        found = await asyncio.wrap_future(self._lookup.find(tenant_id, [question], canaries=False))
        return self._models.of_task(found.tasks[0])

    async def embed(
        self, tenant_id: str, question: Question | None, texts: Sequence[str], model: Model | None = None
    ) -> EmbeddedTexts:
        """Embed texts with the prompt of the task that `question` names, or without a prompt if it is None.

        Args:
            tenant_id: the caller's tenant.
            question: names the task.
            texts: the texts to embed.
            model: the model of that task; it is looked up when None.

        Raises:
            ConflictError: the model has no sentence embeddings; or as `ask` does.
            NotFoundError, BusyError, UnavailableError: as `ask` does.
        """
        self._models.check_loaded()
        if model is None:
            assert question is not None
            model = await self.model_of(tenant_id, question)
        if model.family != "encoder":
            message = "this backbone writes text and has no sentence embeddings: name a model on an encoder"
            raise ConflictError(message, code="backbone_embeds_no_text", param="model")
        with self._capacity.use(tenant_id, len(texts)):
            lookup = _completed(FoundTasks([], [], [], []))
            if question is not None:
                # A stored vector is compared with later ones, so all come from one version.
                lookup = asyncio.wrap_future(self._lookup.find(tenant_id, [question], canaries=False))
            lane = self._lanes[model]
            found, tokenized = await self._read(lookup, tenant_id, lane, texts)
            embedding = Embedding(found.tasks[0] if found.tasks else None)
            answer = await lane.answer(tenant_id, [(embedding, ids) for ids, _ in tokenized])
            return EmbeddedTexts(answer.embeddings(), [len(ids) for ids, _ in tokenized])

    async def _answer(
        self, tenant_id: str, lookup: "asyncio.Future[FoundTasks]", texts: Sequence[str], top_k: int | None
    ) -> AnsweredQuestions:
        arrived_at = time.monotonic()
        if len(self._lanes) == 1:
            [lane] = self._lanes.values()
            found, tokenized = await self._read(lookup, tenant_id, lane, texts)
            check_answer_size(found.prediction_bytes, top_k)
            answer = await lane.answer(tenant_id, _rows(found.tasks, tokenized), arrived_at)
        else:
            found = await lookup
            check_answer_size(found.prediction_bytes, top_k)
            tokenized, answer = await self._answer_by_model(tenant_id, found.tasks, texts, arrived_at)
        tokens, truncated = [len(ids) for ids, _ in tokenized], [too_long for _, too_long in tokenized]
        return AnsweredQuestions(found.keys, truncated, tokens, answer, found.thresholds)

    async def _answer_by_model(
        self, tenant_id: str, tasks: Sequence[ipt.BoundTask], texts: Sequence[str], arrived_at: float
    ) -> tuple[list[TokenizedText], Answer]:
        """Answer each text in the lane of its task's model, all lanes at the same time."""
        numbers_of: dict[Lane, list[int]] = defaultdict(list)
        for number, task in enumerate(tasks):
            numbers_of[self._lanes[self._models.of_task(task)]].append(number)

        async def answer_in(lane: Lane, numbers: list[int]) -> tuple[list[TokenizedText], Answer]:
            lookup = _completed(FoundTasks([], [], [], []))
            _, tokenized = await self._read(lookup, tenant_id, lane, [texts[number] for number in numbers])
            own_tasks = [tasks[number] for number in numbers]
            return tokenized, await lane.answer(tenant_id, _rows(own_tasks, tokenized), arrived_at)

        parts = await asyncio.gather(*(answer_in(*part) for part in numbers_of.items()))
        order = [number for numbers in numbers_of.values() for number in numbers]
        tokenized = dict(zip(order, (text for texts, _ in parts for text in texts), strict=True))
        answers = [answer for _, answer in parts]
        predictions = dict(zip(order, (each for answer in answers for each in answer.predictions), strict=True))
        whole = Answer(
            [predictions[number] for number in range(len(tasks))],
            max(answer.queue_seconds for answer in answers),
            max(answer.inference_seconds for answer in answers),
        )
        return [tokenized[number] for number in range(len(tasks))], whole

    async def _read(
        self, lookup: "asyncio.Future[FoundTasks]", tenant_id: str, lane: Lane, texts: Sequence[str]
    ) -> tuple[FoundTasks, list[TokenizedText]]:
        """Return the tasks of a lookup, and meanwhile tokenize the texts."""
        tokenizations = lane.read(tenant_id, texts)
        try:
            found, parts = await asyncio.gather(lookup, asyncio.gather(*tokenizations))
        finally:
            for tokenization in tokenizations:  # those that have not begun when the lookup fails
                tokenization.cancel()
        tokenized = [text for part in parts for text in part]
        metrics.count_truncated(sum(too_long for _, too_long in tokenized))
        return found, tokenized

    def close(self) -> None:
        """Stop answering; the caller closes the lookup."""
        for lane in self._lanes.values():
            lane.close()


def _rows(tasks: Sequence[ipt.BoundTask], tokenized: Sequence[TokenizedText]) -> list[tuple[ipt.BoundTask, list[int]]]:
    return [(task, ids) for task, (ids, _) in zip(tasks, tokenized, strict=True)]


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
