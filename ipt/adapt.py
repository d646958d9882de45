"""Adapt one task in one call: a tuning engine with a single job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ipt.backbones.interface import Backbone
from ipt.data.examples import Example, TaskKind
from ipt.data.preparation import prepare
from ipt.subspace.subspace import Subspace
from ipt.tuning.engine import TuningEngine
from ipt.tuning.job import AdaptedTask, Hyperparameters, Progress, TuningJob
from ipt.tuning.reading_warnings import dataset_warnings


def adapt(
    backbone: Backbone,
    subspace: Subspace,
    examples: Sequence[Example],
    *,
    validation_examples: Sequence[Example] | None = None,
    kind: TaskKind | None = None,
    hyperparameters: Hyperparameters | None = None,
    initial_vectors: NDArray[np.float32] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> AdaptedTask:
    """Tune a task vector to a few examples.

    Labels that differ only in their spelling are unified; the task's warnings say so.

    Args:
        backbone: the frozen model, from `load_backbone`.
        subspace: found on that backbone.
        examples: at least two of each label.
        validation_examples: to measure on; if None, a quarter of `examples` is held back.
        kind: inferred from the outputs if None; "multilabel" for examples of `Example.with_labels`.
        hyperparameters: if None, `Hyperparameters.defaults` of the kind.
        initial_vectors: [K, D], where tuning may start instead of the subspace's initial vectors.
        on_step: called with the progress after every step.

    Raises:
        DatasetError: the examples cannot be tuned on.
        SubspaceMismatchError: the subspace belongs to another backbone.
    """
    dataset = prepare(examples, validation_examples, kind)
    job = TuningJob(
        "adapt",
        dataset.examples,
        dataset.kind,
        dataset.validation_examples,
        hyperparameters or Hyperparameters.defaults(dataset.kind),
        initial_vectors,
    )
    engine = TuningEngine(backbone, subspace)
    engine.add(job, on_step=on_step)
    while not engine.step()[0].done:
        pass
    task = engine.finish("adapt")
    placed = subspace.placed(backbone)
    read = partial(placed.tokenize_flagged, prompt_length=subspace.prompt_length)
    warnings = [*dataset.warnings, *dataset_warnings(placed, subspace, dataset, read)]
    return replace(task, warnings=[*warnings, *task.warnings])
