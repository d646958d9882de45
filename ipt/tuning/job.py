"""A tuning job: its data and hyperparameters, its progress, and the adapted task that it results in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipt.data.examples import Example, TaskKind
from ipt.errors import IptError
from ipt.prediction.task_head import TaskHead
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.held_out_texts import HeldOutTexts

Metrics = dict[str, float | int | str | None]
"""What was measured of an adaptation, by name; docs/api.md lists the names."""


class Range(NamedTuple):
    """The integers that a hyperparameter may take, including both ends."""

    smallest: int
    largest: int


STEPS = Range(0, 10_000)
BATCH_SIZE = Range(4, 512)
RESTARTS = Range(1, 16)
SEED = Range(0, 2**32 - 1)
LARGEST_LEARNING_RATE = 10


@dataclass(frozen=True)
class Hyperparameters:
    """How a task vector is tuned. docs/results.md measures the defaults of classification; `defaults` has the others.

    Raises:
        IptError: a value is out of its range; `param` names it.
    """

    steps: int = 100
    learning_rate: float = 0.03
    batch_size: int = 18
    restarts: int = 1
    seed: int = 0

    @classmethod
    def defaults(cls, kind: TaskKind) -> Hyperparameters:
        """Return the defaults for a kind of task: a step of a model that writes costs several of an encoder."""
        return cls(steps=60, batch_size=8) if kind == "text2text" else cls()

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
    """One task to tune. Without `validation_examples` a part of `examples` is held back for validation."""

    job_id: str
    examples: list[Example]
    kind: TaskKind
    validation_examples: list[Example] | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    initial_vectors: NDArray[np.float32] | None = field(default=None, compare=False)
    """[K, D]: where tuning may start instead of the subspace's initial vectors, such as vectors of similar tasks."""
    early_stopping: bool = True
    """Whether tuning stops before its last step if validations no longer improve. In either case the result is the
    vector of the best validation."""


@dataclass(frozen=True)
class Progress:
    """A job's progress after an engine step. `step` counts optimizer steps; `loss` is the latest step's (on a GPU,
    the one before)."""

    job_id: str
    step: int
    steps: int
    loss: float | None
    done: bool
    phase: str = "tuning"
    """One of "preparing", "tuning" and "finishing"."""
    validation: tuple[int, float] | None = None
    """The step of the newest validation, and its lowest loss of all restarts; None before the first one and until the
    next one after a resumption."""


@dataclass(frozen=True)
class AdaptedTask:
    """A tuned task: the head that `Predictor.predict` takes, and how well it does."""

    head: TaskHead
    metrics: Metrics
    warnings: list[str] = field(default_factory=list)
    held_out: HeldOutLogits | HeldOutTexts | None = field(default=None, repr=False)
    """What the score was measured on, texts of text to text; None if no row could be measured."""

    def moved_from(self, start: NDArray[np.float32]) -> bool:
        """Return whether tuning replaced this start (D floats, in any shape) with a better vector."""
        return not np.array_equal(self.head.vector, start.ravel())
