"""Methods that tune a vector or a whole soft prompt: IST, PT, and tuning in a random subspace."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipt.backbones.interface import Backbone
from ipt.data.preparation import check_unified
from ipt.errors import DatasetError
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.protocol import Draw, Method, Setup
from ipt.evaluation.random_subspace import random_subspace
from ipt.evaluation.untuned_methods import LEANING_WEIGHT, UntunedReadout
from ipt.prediction.predictor import Predictor
from ipt.subspace.full_prompt_space import full_prompt_space, word_prompts
from ipt.subspace.subspace import Subspace
from ipt.tuning.engine import TuningEngine
from ipt.tuning.job import AdaptedTask, TuningJob

BATCH_ROWS = 64
InitialVectors = Callable[[Subspace, int], Tensor]
"""Returns the vectors [K, D] that tuning in a subspace may start at, for a seed."""


class TunedMethod(Method):
    """A method that tunes all draws together: they share an engine, which changes their numbers by rounding only."""

    def measure(self, setup: Setup, draws: Sequence[Draw]) -> Iterator[Measurement]:
        started = time.perf_counter()
        tuned = self.tune(setup, draws)
        share = (time.perf_counter() - started) / max(1, len(draws))
        for draw, (space, task) in zip(draws, tuned, strict=True):
            started = time.perf_counter()
            answers = _answers(setup.backbone, space, task, draw.texts)
            # The engine's seconds are those of all draws together.
            detail = task.metrics if len(draws) == 1 else task.metrics | {"seconds": None}
            yield draw.measurement(self.name, answers, share + time.perf_counter() - started, detail)

    @abstractmethod
    def tune(self, setup: Setup, draws: Sequence[Draw]) -> list[tuple[Subspace, AdaptedTask]]:
        """Return the tuned task of each draw, after the space that it was tuned in."""


class SubspaceTuning(TunedMethod):
    """IST: tune a vector in the subspace.

    With one example per label an encoder answers with the untuned readout: no example is left for validation.

    Args:
        name: of the method.
        initial_vectors: None: the subspace's own.
        steps: most steps; None: those of the evaluation's hyperparameters.
    """

    def __init__(self, name: str, initial_vectors: InitialVectors | None = None, steps: int | None = None) -> None:
        super().__init__(name)
        self._initial_vectors = initial_vectors
        self._changes: dict[str, Any] = {} if steps is None else {"steps": steps}

    def measure(self, setup: Setup, draws: Sequence[Draw]) -> Iterator[Measurement]:
        one_shot = setup.options.per_label == 1 and setup.backbone.family == "encoder"
        if one_shot and self._initial_vectors is None:
            return UntunedReadout(self.name, LEANING_WEIGHT).measure(setup, draws)
        return super().measure(setup, draws)

    def tune(self, setup: Setup, draws: Sequence[Draw]) -> list[tuple[Subspace, AdaptedTask]]:
        starts = None
        if self._initial_vectors is not None:
            of_seed = {seed: self._initial_vectors(setup.subspace, seed) for seed in _seeds(draws)}
            starts = [of_seed[draw.seed] for draw in draws]
        return [(setup.subspace, task) for task in _tune(setup, setup.subspace, draws, starts, (self._changes,))]


class RandomSubspaceTuning(TunedMethod):
    """IST in an untrained subspace of the same shape (`ipt.evaluation.random_subspace`)."""

    slow = True

    def tune(self, setup: Setup, draws: Sequence[Draw]) -> list[tuple[Subspace, AdaptedTask]]:
        tuned: dict[int, tuple[Subspace, AdaptedTask]] = {}
        for seed in _seeds(draws):
            numbers = [number for number, draw in enumerate(draws) if draw.seed == seed]
            space = random_subspace(setup.backbone, setup.subspace, seed)
            tasks = _tune(setup, space, [draws[number] for number in numbers])
            tuned |= {number: (space, task) for number, task in zip(numbers, tasks, strict=True)}
        return [tuned[number] for number in range(len(draws))]


class PromptTuning(TunedMethod):
    """PT: tune the whole soft prompt, from words drawn by the seed."""

    slow = True
    uses_subspace = False
    revision = 4  # prompts are tuned to the last step (docs/decisions/0030)

    def tune(self, setup: Setup, draws: Sequence[Draw]) -> list[tuple[Subspace, AdaptedTask]]:
        length = setup.subspace.prompt_length
        words = {seed: word_prompts(setup.backbone, length, seed=seed) for seed in _seeds(draws)}
        return _tune_prompts(setup, draws, [words[draw.seed].flatten(1) for draw in draws])


class SubspaceThenPromptTuning(TunedMethod):
    """PT that starts at the soft prompt found by IST."""

    slow = True
    revision = 4  # prompts are tuned to the last step (docs/decisions/0030)

    def tune(self, setup: Setup, draws: Sequence[Draw]) -> list[tuple[Subspace, AdaptedTask]]:
        vectors = torch.from_numpy(np.stack([task.head.vector for task in _tune(setup, setup.subspace, draws)]))
        with torch.no_grad():
            prompts = setup.subspace.decoder(vectors.to(setup.backbone.device)).cpu()
        return _tune_prompts(setup, draws, [prompt[None].flatten(1) for prompt in prompts])


def _seeds(draws: Sequence[Draw]) -> list[int]:
    return sorted({draw.seed for draw in draws})


def _tune_prompts(setup: Setup, draws: Sequence[Draw], starts: Sequence[Tensor]) -> list[tuple[Subspace, AdaptedTask]]:
    """Tune whole prompts from `starts`, [1, P * H] for each draw, at the best of PT's learning rates."""
    length = setup.subspace.prompt_length
    space = full_prompt_space(setup.backbone, length, starts[0].view(1, length, -1))
    rates = [{"steps": setup.options.pt_steps, "learning_rate": rate} for rate in setup.pt_learning_rates]
    tuned = _tune(setup, space, draws, starts, rates, early_stopping=False)
    return [
        (space, replace(task, metrics=task.metrics | {"moved": task.moved_from(start.numpy())}))
        for task, start in zip(tuned, starts, strict=True)
    ]


def _tune(
    setup: Setup,
    space: Subspace,
    draws: Sequence[Draw],
    starts: Sequence[Tensor] | None = None,
    changes: Sequence[dict[str, Any]] = ({},),
    *,
    early_stopping: bool = True,
) -> list[AdaptedTask]:
    """Tune each draw with each change of its hyperparameters, in one engine; return the best task of each draw.

    `starts` are each draw's initial vectors [K, D]; None: the space's own.
    """
    engine = TuningEngine(setup.backbone, space)
    for number, draw in enumerate(draws):
        try:
            kind = check_unified(draw.examples, None, None)
        except DatasetError as error:
            raise DatasetError(f"{draw.task.name}: {error.message}") from None
        vectors = None if starts is None else starts[number].numpy()
        for change in changes:
            hyperparameters = replace(setup.options.hyperparameters, seed=draw.seed, **change)
            job_id = str(len(engine.job_ids))
            engine.add(TuningJob(job_id, draw.examples, kind, None, hyperparameters, vectors, early_stopping))
    while not all(progress.done for progress in engine.step()):
        pass
    tuned = [engine.finish(job_id) for job_id in engine.job_ids]
    return [_best(tuned[first : first + len(changes)]) for first in range(0, len(tuned), len(changes))]


def _best(tasks: Sequence[AdaptedTask]) -> AdaptedTask:
    """Return the task with the highest held-back score, the first of equals."""
    scores = [task.metrics.get("score") for task in tasks]
    return tasks[int(np.argmax([score if isinstance(score, int | float) else -1.0 for score in scores]))]


def _answers(backbone: Backbone, space: Subspace, task: AdaptedTask, texts: Sequence[str]) -> list[str | None]:
    predictor = Predictor(backbone, space)
    bound = predictor.bind(task.head)
    answers: list[str | None] = []
    for start in range(0, len(texts), BATCH_ROWS):
        rows = [(bound, text) for text in texts[start : start + BATCH_ROWS]]
        answers += [answer.label if answer.label is not None else answer.text for answer in predictor.predict(rows)]
    return answers
