"""Answer texts with tasks: look up the tasks, tokenize the texts, and submit both to the batcher."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.db.coalescer import Coalescer
from app.errors import BusyError
from app.fairness.shared_capacity import SharedCapacity
from app.predictions import metrics
from app.predictions.answer_size import check_answer_size
from app.predictions.batcher import Answer, Batcher
from app.predictions.model import Model
from app.predictions.task_cache import TaskKey
from app.predictions.task_lookup import Question, TaskLookup
from app.settings import Settings

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


class Predictions:
    """Answers for all tasks of all tenants in this process."""

    def __init__(self, settings: Settings, model: Model, lookup: TaskLookup) -> None:
        self._model = model
        self._lookup = lookup
        self._capacity = SharedCapacity(settings.predict_queue_rows, _too_many_texts)
        self._tokenizer = Coalescer(self._tokenize_all, name="tokenizer", most=CHARS_PER_TOKENIZATION)
        self._batcher = Batcher(
            lambda rows: model.predictor.predict(rows),  # noqa: PLW0108 - there is no predictor before it is loaded
            wait_seconds=settings.predict_wait_ms / 1000,
            batch_rows=settings.predict_batch_rows,
            batch_tokens=settings.predict_batch_tokens,
        )

    async def ask(self, tenant_id: str, questions: Sequence[Question], top_k: int | None = None) -> AnsweredQuestions:
        """Answer each question; the caller sends only the `top_k` highest scores of each answer, all if None.

        Raises:
            NotFoundError: the tenant has no such task, or the task no such version.
            ConflictError: the task is not tuned yet, or was tuned in another subspace than the loaded one.
            InvalidError: the answer could be too large.
            BusyError: too many texts of the tenant are waiting.
            UnavailableError: the model is not loaded, is out of memory, or the service is stopping.
        """
        arrived_at = time.monotonic()
        texts = [question.text for question in questions]
        with self._capacity.use(tenant_id, len(texts)):  # before any work is done for the texts
            lookup = asyncio.wrap_future(self._lookup.find(tenant_id, questions))
            tokenizations = [
                asyncio.wrap_future(self._tokenizer.ask(part, sum(map(len, part)), tenant_id)) for part in _parts(texts)
            ]
            try:
                found, parts = await asyncio.gather(lookup, asyncio.gather(*tokenizations))
            finally:
                for tokenization in tokenizations:  # those that have not begun when the lookup fails
                    tokenization.cancel()
            check_answer_size(found.prediction_bytes, top_k)
            tokenized = [text for part in parts for text in part]
            truncated = [too_long for _, too_long in tokenized]
            metrics.count_truncated(sum(truncated))
            rows = [(task, ids) for task, (ids, _) in zip(found.tasks, tokenized, strict=True)]
            answer = self._batcher.submit(tenant_id, rows, self._model.predictor.prompt_positions, arrived_at)
            tokens = [len(ids) for ids, _ in tokenized]
            return AnsweredQuestions(found.keys, truncated, tokens, await asyncio.wrap_future(answer))

    def close(self) -> None:
        """Stop answering; the caller closes the lookup."""
        self._tokenizer.close()
        self._batcher.close()

    def _tokenize_all(self, parts: Sequence[Sequence[str]]) -> list[list[TokenizedText] | Exception]:
        tokenized = iter(self._model.predictor.read([text for texts in parts for text in texts]))
        return [[next(tokenized) for _ in texts] for texts in parts]


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
