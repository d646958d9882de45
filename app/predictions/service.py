"""From task ids and texts to answers: find the tasks, read the texts, and let the batcher compute."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

import ipt
from app.db.coalescer import Coalescer
from app.predictions import metrics
from app.predictions.batcher import Answer, Batcher
from app.predictions.bound_tasks import TaskKey
from app.predictions.lookup import Question, TaskLookup
from app.predictions.model import Model
from app.settings import Settings

TOKENIZED_TOGETHER = 256
"""Texts whose tokens are made together."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Of each question: the task's version that answered, and whether its text was too long to be read whole."""

    keys: list[TaskKey]
    truncated: list[bool]
    answer: Answer


class Predictions:
    """Answers for all tasks of all tenants, in this process."""

    def __init__(self, settings: Settings, engine: Engine, model: Model) -> None:
        self._model = model
        self._lookup = TaskLookup(engine, model, settings.predict_cached_tasks)
        self._reader = Coalescer(self._read_all, name="tokenizer", most=TOKENIZED_TOGETHER)
        self._batcher = Batcher(
            model.predict,
            wait_seconds=settings.predict_wait_ms / 1000,
            batch_rows=settings.predict_batch_rows,
            batch_tokens=settings.predict_batch_tokens,
            queue_rows=settings.predict_queue_rows,
        )

    async def ask(self, tenant_id: str, questions: Sequence[Question]) -> Answered:
        """Answer each question, and say which version of its task did.

        Raises:
            NotFoundError: a task or version that the tenant does not have.
            ConflictError: a task that has not been tuned yet, or was tuned in another subspace than is loaded.
            BusyError, UnavailableError: not now.
        """
        arrived_at = time.monotonic()
        texts = [question.text for question in questions]
        finding = asyncio.wrap_future(self._lookup.find(tenant_id, questions))
        reading = asyncio.wrap_future(self._reader.ask(texts, len(texts)))
        found, read = await asyncio.gather(finding, reading)
        truncated = [too_long for _, too_long in read]
        metrics.truncated(sum(truncated))
        rows = [(task, ids) for task, (ids, _) in zip(found.tasks, read, strict=True)]
        answered = self._batcher.submit(rows, self._model.subspace.prompt_length, arrived_at)
        return Answered(found.keys, truncated, await asyncio.wrap_future(answered))

    async def find(self, tenant_id: str, question: Question) -> tuple[TaskKey, ipt.BoundTask]:
        """The task of one question; raises as `ask` does."""
        found = await asyncio.wrap_future(self._lookup.find(tenant_id, [question]))
        return found.keys[0], found.tasks[0]

    def close(self) -> None:
        """Stop answering."""
        self._lookup.close()
        self._reader.close()
        self._batcher.close()

    def _read_all(self, asked: Sequence[Sequence[str]]) -> list[list[tuple[list[int], bool]] | Exception]:
        """The tokens of each request's texts, and whether each is too long."""
        read = iter(self._model.read([text for texts in asked for text in texts]))
        return [[next(read) for _ in texts] for texts in asked]
