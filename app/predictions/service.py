"""Answer texts with tasks: look up the tasks, tokenize the texts, and submit both to the batcher."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.db.coalescer import Coalescer
from app.predictions import metrics
from app.predictions.answer_size import check_answer_size
from app.predictions.batcher import Answer, Batcher
from app.predictions.model import Model
from app.predictions.task_cache import TaskKey
from app.predictions.task_lookup import Question, TaskLookup
from app.settings import Settings

TEXTS_PER_TOKENIZATION = 256
"""Most texts that are tokenized in one call."""


@dataclass(frozen=True, slots=True)
class AnsweredQuestions:
    """Predictions for a request's questions, with the task version that answered each."""

    keys: list[TaskKey]
    truncated: list[bool]
    """Whether each text was longer than the backbone reads."""
    answer: Answer


class Predictions:
    """Answers for all tasks of all tenants in this process."""

    def __init__(self, settings: Settings, model: Model, lookup: TaskLookup) -> None:
        self._model = model
        self._lookup = lookup
        self._tokenizer = Coalescer(self._tokenize_all, name="tokenizer", most=TEXTS_PER_TOKENIZATION)
        self._batcher = Batcher(
            lambda rows: model.predictor.predict(rows),  # noqa: PLW0108 - there is no predictor before it is loaded
            wait_seconds=settings.predict_wait_ms / 1000,
            batch_rows=settings.predict_batch_rows,
            batch_tokens=settings.predict_batch_tokens,
            queue_rows=settings.predict_queue_rows,
        )

    async def ask(self, tenant_id: str, questions: Sequence[Question], top_k: int | None = None) -> AnsweredQuestions:
        """Answer each question; the caller sends only the `top_k` highest scores of each answer, all if None.

        Raises:
            NotFoundError: the tenant has no such task, or the task no such version.
            ConflictError: the task is not tuned yet, or was tuned in another subspace than the loaded one.
            InvalidError: the answer could be too large.
            BusyError: the queue is full.
            UnavailableError: the model is not loaded, is out of memory, or the service is stopping.
        """
        arrived_at = time.monotonic()
        texts = [question.text for question in questions]
        lookup = asyncio.wrap_future(self._lookup.find(tenant_id, questions))
        tokenization = asyncio.wrap_future(self._tokenizer.ask(texts, len(texts)))
        found, tokenized = await asyncio.gather(lookup, tokenization)
        check_answer_size(found.prediction_bytes, top_k)
        truncated = [too_long for _, too_long in tokenized]
        metrics.count_truncated(sum(truncated))
        rows = [(task, ids) for task, (ids, _) in zip(found.tasks, tokenized, strict=True)]
        answer = self._batcher.submit(rows, self._model.predictor.prompt_positions, arrived_at)
        return AnsweredQuestions(found.keys, truncated, await asyncio.wrap_future(answer))

    def close(self) -> None:
        """Stop answering; the caller closes the lookup."""
        self._tokenizer.close()
        self._batcher.close()

    def _tokenize_all(self, requests: Sequence[Sequence[str]]) -> list[list[tuple[list[int], bool]] | Exception]:
        """Return the tokens of each request's texts, and whether each text is too long."""
        tokenized = iter(self._model.predictor.read([text for texts in requests for text in texts]))
        return [[next(tokenized) for _ in texts] for texts in requests]
