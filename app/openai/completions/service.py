"""Answer with fine-tuned models, through the service's own predictions and generations."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine

import ipt
from app.db.session import read_transaction
from app.errors import InvalidError
from app.generations.service import Generation, Generations
from app.openai import names
from app.openai.errors import model_not_found
from app.openai.fine_tuning import repository
from app.predictions.models import Models
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question, TaskLookup

KEPT_RULES = 10_000
"""Tasks whose rule for system messages is kept in memory."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """The probabilities of all labels for one prompt, and the tokens of the prompt."""

    scores: dict[str, float]
    answered: tuple[str, ...] | None
    """The labels that reach their thresholds; None if the task has one label for each text."""
    prompt_tokens: int


class Completions:
    """Answers for the fine-tuned models of all tenants in this process."""

    def __init__(
        self, engine: Engine, models: Models, lookup: TaskLookup, predictions: Predictions, generations: Generations
    ) -> None:
        self._engine = engine
        self._models = models
        self._lookup = lookup
        self._predictions = predictions
        self._generations = generations
        # The first job of a task decides the rule, and ids are never reused: an entry cannot become wrong.
        self._with_system: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._lock = threading.Lock()

    async def writes_text(self, tenant_id: str, task_id: str) -> bool:
        """Return whether a task answers with texts instead of labels.

        Raises:
            NotFoundError: the tenant has no such task.
            ConflictError: the task cannot answer yet.
        """
        if all(model.family == "encoder" for model in self._models.all):
            return False
        return (await self._task(tenant_id, task_id)).head.kind == "text2text"

    async def family(self, tenant_id: str, task_id: str) -> ipt.Family | None:
        """Return the family of the backbone that answers a task, None while it loads; raises as `writes_text`."""
        if len(self._models.all) == 1:
            return self._models.all[0].family
        return self._models.of_task(await self._task(tenant_id, task_id)).family

    async def with_system(self, tenant_id: str, task_id: str) -> bool:
        """Return whether system messages are part of the inputs of a task."""
        key = (tenant_id, task_id)
        with self._lock:
            if key in self._with_system:
                self._with_system.move_to_end(key)
                return self._with_system[key]
        rule = await run_in_threadpool(self._read_rule, tenant_id, task_id)
        with self._lock:
            self._with_system[key] = rule
            if len(self._with_system) > KEPT_RULES:
                self._with_system.popitem(last=False)
        return rule

    async def classify(self, tenant_id: str, task_id: str, texts: Sequence[str]) -> list[LabelScores]:
        """Return the probabilities of all labels for each text; raises as `Predictions.ask` does."""
        questions = [Question(task_id, None, text, "model") for text in texts]
        answered = await self._predictions.ask(tenant_id, questions)
        predictions = zip(answered.answer.predictions, answered.tokens, strict=True)
        return [LabelScores(prediction.scores or {}, prediction.labels, tokens) for prediction, tokens in predictions]

    async def generate(
        self, tenant_id: str, task_id: str, texts: Sequence[str], options: dict[str, Any], stopping: threading.Event
    ) -> Generation:
        """Queue a text for each input; raises as `Generations.begin` does."""
        question = Question(task_id, None, texts[0], "model")
        try:
            return await self._generations.begin(tenant_id, question, texts, options, stopping)
        except InvalidError as error:
            param = {"max_new_tokens": "max_tokens", "format": "response_format"}.get(error.param or "", error.param)
            raise InvalidError(error.message, code=error.code, param=param) from error

    async def _task(self, tenant_id: str, task_id: str) -> ipt.BoundTask:
        question = Question(task_id, None, "", "model")
        found = await asyncio.wrap_future(self._lookup.find(tenant_id, [question], canaries=False))
        return found.tasks[0]

    def _read_rule(self, tenant_id: str, task_id: str) -> bool:
        with read_transaction(self._engine, [tenant_id]) as session:
            return repository.with_system(session, tenant_id, task_id)


def task_of(model: str) -> str:
    """Return the id of the task that a fine-tuned model's name means.

    Raises:
        NotFoundError: the name is of another form.
    """
    task_id = names.task_of_model(model)
    if task_id is None:
        raise model_not_found(
            model, "only fine-tuned models answer: name one of GET /openai/v1/models that begins with ft:"
        )
    return task_id
