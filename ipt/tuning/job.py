"""What a tuning job is asked (data and hyperparameters), tells while it runs, and leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipt.data.examples import Example, TaskKind
from ipt.errors import IptError
from ipt.prediction.tasks import TaskHead


class Range(NamedTuple):
    """The integers that a hyperparameter may take, both ends included."""

    smallest: int
    largest: int


STEPS = Range(0, 10_000)
BATCH_SIZE = Range(4, 512)
RESTARTS = Range(1, 16)
SEED = Range(0, 2**32 - 1)
LARGEST_LEARNING_RATE = 10


@dataclass(frozen=True)
class Hyperparameters:
    """How a task vector is tuned. The defaults are the measured ones (docs/results.md).

    Raises:
        IptError: when a value is out of its range, naming it.
    """

    steps: int = 40
    learning_rate: float = 0.03
    batch_size: int = 18
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (smallest, largest) in (
            ("steps", STEPS),
            ("batch_size", BATCH_SIZE),
            ("restarts", RESTARTS),
            ("seed", SEED),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
                raise IptError(f"{name} must be an integer from {smallest} to {largest}, got {value!r}", param=name)
        rate = self.learning_rate
        if not _is_number(rate) or not 0 < rate <= LARGEST_LEARNING_RATE:  # also false for NaN
            raise IptError(
                f"learning_rate must be a number above 0 and at most {LARGEST_LEARNING_RATE}, got {rate!r}",
                param="learning_rate",
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class TuningJob:
    """One task to tune. Without `validation_examples` a part of `examples` is held back to measure on."""

    job_id: str
    examples: list[Example]
    kind: TaskKind
    validation_examples: list[Example] | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    initial_vectors: NDArray[np.float32] | None = field(default=None, compare=False)
    """[K, D]: where tuning may start, in place of the subspace's own: vectors of like tasks, say."""
    early_stopping: bool = True
    """Whether it may end before its last step, where validations gain nothing any more. What it ends with is the best
    that was validated either way."""


@dataclass(frozen=True)
class Progress:
    """Where a job stands after an engine step. `step` counts optimizer steps; `loss` is the newest step's (on a GPU,
    that of the one before)."""

    job_id: str
    step: int
    steps: int
    loss: float | None
    done: bool
    phase: str = "tuning"
    """"preparing", "tuning" or "finishing"."""


@dataclass(frozen=True)
class AdaptedTask:
    """A tuned task: its head, which `Predictor.predict` takes, and how good it is."""

    head: TaskHead
    metrics: dict[str, float | int | str | None]
    warnings: list[str] = field(default_factory=list)

    def moved_from(self, start: NDArray[np.float32]) -> bool:
        """Whether tuning was better than this start (of D floats, in any shape), which is kept otherwise."""
        return not np.array_equal(self.head.vector, start.ravel())
