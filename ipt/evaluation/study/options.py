"""The options of a study: what is fitted and measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ipt.evaluation.methods import METHODS
from ipt.evaluation.protocol import EvaluationOptions
from ipt.fitting.direct_fit import FitOptions


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
