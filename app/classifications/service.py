"""Classify texts by examples: fit a readout at the default vector, keep it in memory, and predict with it.

The fit is an adaptation without steps that starts at one vector only (docs/decisions/0052).
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import ipt
from app.adaptations.dataset_checks import prepare_dataset
from app.adaptations.schemas import DatasetInput, ExampleInput
from app.classifications.schemas import ClassifyInput
from app.errors import BusyError, InvalidError, out_of_memory_error
from app.fairness.fair_pool import FairPool
from app.fairness.shared_capacity import SharedCapacity
from app.predictions.answer_size import prediction_bytes
from app.predictions.models import Models
from app.predictions.service import AnsweredQuestions, Predictions
from app.predictions.task_cache import BoundTasks, CachedTask, TaskKey
from app.settings import Settings
from ipt.runtime.memory import is_out_of_memory

TURN_CHARS = 16_384
"""Characters of examples in a tenant's turn."""
WAITING_REQUESTS = 8
"""Requests of the largest size whose examples may wait for a fit, of all tenants together."""
_JOB = "classify"


@dataclass(frozen=True, slots=True)
class FittedTask(CachedTask):
    """A task that was fitted to the examples of a request, and the warnings about them."""

    warnings: Sequence[str]

    def memory_bytes(self) -> int:
        # Named, because `super()` without arguments does not work in a dataclass with slots.
        return CachedTask.memory_bytes(self) + sum(map(sys.getsizeof, self.warnings))


class Classifications:
    """Classifies for all tenants in this process; one thread fits, and tenants take turns in it."""

    def __init__(self, settings: Settings, models: Models, predictions: Predictions) -> None:
        self._settings = settings
        self._models = models
        self._predictions = predictions
        self._fitted: BoundTasks[FittedTask] = BoundTasks(settings.predict_cached_tasks, settings.classify_cached_bytes)
        self._capacity = SharedCapacity(WAITING_REQUESTS * settings.max_classify_examples, _too_many_examples)
        self._threads = FairPool("classify", threads=1, quantum=TURN_CHARS)
        self._engine: ipt.TuningEngine | None = None

    async def classify(self, tenant_id: str, body: ClassifyInput) -> tuple[AnsweredQuestions, Sequence[str]]:
        """Return a prediction for each input, and warnings about the examples.

        Raises:
            InvalidError: no task can be fitted to the examples, or the answer could be too large.
            BusyError: too many examples or texts of the tenant are waiting.
            UnavailableError: the model is not loaded, is out of memory, or the service is stopping.
        """
        self._models.check_loaded()
        examples = body.examples
        most = self._settings.max_classify_examples
        if len(examples) > most:
            raise InvalidError(
                f"at most {most:,} examples, got {len(examples):,}: create an adaptation of them",
                code="too_many_examples",
                param="examples",
            )
        key = _key(tenant_id, examples)
        task = self._fitted.get(key)
        if task is None:
            with self._capacity.use(tenant_id, len(examples)):
                chars = sum(len(example.input) for example in examples)
                task = await self._threads.run(tenant_id, chars, partial(self._fit, key, examples))
        answered = await self._predictions.answer(tenant_id, key, task, body.inputs, body.top_k)
        return answered, task.warnings

    def close(self) -> None:
        """Finish the fits that have begun or wait."""
        self._threads.close()

    def _fit(self, key: TaskKey, examples: list[ExampleInput]) -> FittedTask:
        earlier = self._fitted.get(key)
        if earlier is not None:  # an equal request had its turn before
            return earlier
        body = DatasetInput(examples=examples, kind="classification")
        model = self._models.for_kind("classification")
        dataset = prepare_dataset(self._settings, body, model.family)
        predictor = model.predictor
        if self._engine is None:
            # Other threads use the tokenizer of the predictor's backbone.
            self._engine = ipt.TuningEngine(predictor.backbone.with_own_tokenizer(), predictor.subspace)
        start = predictor.subspace.initial_vectors[:1].cpu().numpy()
        options = ipt.Hyperparameters(steps=0)
        job = ipt.TuningJob(_JOB, dataset.examples, "classification", None, options, start)
        self._engine.add(job)
        try:
            done = False
            while not done:
                with model.device_turn():
                    [progress] = self._engine.step()
                done = progress.done
        except Exception as error:
            self._engine.remove(_JOB)
            if is_out_of_memory(error):
                raise out_of_memory_error(", or send fewer examples") from error
            raise
        head = self._engine.finish(_JOB).head
        task = FittedTask(predictor.bind(head), prediction_bytes(head.labels), dataset.warnings)
        self._fitted.put(key, task)
        return task


def _key(tenant_id: str, examples: Sequence[ExampleInput]) -> TaskKey:
    """Return the key of a tenant's examples in the cache.

    It contains the tenant, who could otherwise tell by the time of an answer what other tenants have sent.
    """
    digest = hashlib.sha256(tenant_id.encode())
    for example in examples:
        for text in (example.input, example.output):
            content = text.encode()
            digest.update(len(content).to_bytes(8) + content)
    return digest.hexdigest(), 0


def _too_many_examples() -> BusyError:
    return BusyError(
        "too many of your examples are waiting to be fitted: wait for some answers",
        code="classification_queue_full",
        retry_after=2,
    )
