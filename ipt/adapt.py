"""Adapt one task in one call: a tuning engine with a single job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ipt.backbones.interface import Backbone
from ipt.data.examples import Example, TaskKind, check_examples
from ipt.subspace.subspace import Subspace
from ipt.tuning.engine import TuningEngine
from ipt.tuning.job import AdaptedTask, Hyperparameters, Progress, TuningJob


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

    Args:
        backbone: the frozen model, from `load_backbone`.
        subspace: found on that backbone.
        examples: at least two of each label.
        validation_examples: to measure on; if None, a quarter of `examples` is held back.
        kind: inferred from the outputs if None.
        hyperparameters: the defaults if None.
        initial_vectors: [K, D], where tuning may start instead of the subspace's initial vectors.
        on_step: called with the progress after every step.

    Raises:
        DatasetError: the examples cannot be tuned on.
        SubspaceMismatchError: the subspace belongs to another backbone.
    """
    job = TuningJob(
        "adapt",
        list(examples),
        check_examples(examples, validation_examples, kind),
        None if validation_examples is None else list(validation_examples),
        hyperparameters or Hyperparameters(),
        initial_vectors,
    )
    engine = TuningEngine(backbone, subspace)
    engine.add(job, on_step=on_step)
    while not engine.step()[0].done:
        pass
    return engine.finish("adapt")
