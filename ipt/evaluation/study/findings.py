"""The options of a study, and what it finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from ipt.errors import IptError
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.methods import METHODS
from ipt.evaluation.protocol import EvaluationOptions
from ipt.fitting.direct_fit import FitOptions
from ipt.subspace.subspace import Subspace


@dataclass(frozen=True)
class StudyOptions:
    """What is fitted and measured. A study varies the dimension of `fit` and the number of examples of `evaluation`."""

    dimensions: tuple[int, ...] = (5, 10, 50, 100, 250)
    methods: tuple[str, ...] = ("class names", "logistic regression", "nearest neighbours", "PT", "random", "IST")
    seeds: tuple[int, ...] = (100, 101, 102)
    """Seeds of the draws of examples; the fits have seed 0."""
    slow_seeds: int | None = None
    """Number of draws for everything slow (slow methods, the curve and the ablations); None: all."""
    seen_tasks: int | None = None
    unseen_tasks: int | None = None
    """Most tasks that are measured, from as many families as possible; None: all."""
    curve: tuple[int, ...] = (1, 4, 8, 16, 64)
    """Numbers of examples per label for which IST and logistic regression are compared."""
    ablations: tuple[str, ...] = ()
    fit: FitOptions = field(default_factory=FitOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    @property
    def seeds_of_slow(self) -> tuple[int, ...]:
        """Seeds of the draws for everything slow."""
        return self.seeds[: self.slow_seeds]

    def method_groups(self) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """Yield the quick methods, then the slow ones, each with the seeds that they are measured on."""
        for slow, seeds in ((False, self.seeds), (True, self.seeds_of_slow)):
            methods = [name for name in self.methods if METHODS[name].slow == slow]
            if methods:
                yield methods, seeds


class SkippedPartError(IptError):
    """A part of a study cannot be done; the study goes on without it."""


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: what was changed, and one method's measurements on the unseen tasks."""

    name: str
    measurements: list[Measurement]


@dataclass
class Findings:
    """Everything that a study has found so far."""

    subspaces: dict[int, Subspace] = field(default_factory=dict)
    """By dimension."""
    splits: dict[str, dict[int, list[Measurement]]] = field(default_factory=lambda: {"seen": {}, "unseen": {}})
    """The measurements on seen and on unseen tasks, by dimension."""
    curve: dict[int, list[Measurement]] = field(default_factory=dict)
    """By number of examples per label."""
    ablations: dict[str, list[Variant]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """The tasks and parts that could not be used, and why."""

    @property
    def measured(self) -> list[Measurement]:
        """All measurements."""
        by_dimension = (measured for of_split in self.splits.values() for measured in of_split.values())
        of_variants = (variant.measurements for variants in self.ablations.values() for variant in variants)
        return list(chain.from_iterable([*by_dimension, *self.curve.values(), *of_variants]))

    @property
    def reference(self) -> Subspace:
        """The subspace of the largest dimension."""
        return self.subspaces[max(self.subspaces)]

    def leave_out(self, *reasons: str) -> None:
        """Note reasons that are not noted yet."""
        self.left_out += [reason for reason in dict.fromkeys(reasons) if reason not in self.left_out]
