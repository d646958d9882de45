"""The evaluation protocol: what is measured on which rows, and what a method must offer.

Source: arXiv 2110.07867, section 4. Scores are measured on a task's test rows, which no method is tuned on. Choices
such as PT's learning rate are made by the score on held-back examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ipt.backbones.interface import Backbone, Family
from ipt.data.examples import Example
from ipt.data.sampling import few_shot
from ipt.data.task_dataset import TaskDataset, rows_hash
from ipt.evaluation.measurements import Detail, Measurement
from ipt.subspace.subspace import Subspace
from ipt.tuning.job import Hyperparameters
from ipt.tuning.text_scores import exactly_matches

REVISION = 3
"""Revision of the tuning and the readout, raised when the same examples give other answers. Measurements of different
revisions are not comparable."""
PT_LEARNING_RATES: dict[Family, tuple[float, ...]] = {
    "encoder": (0.001, 0.003, 0.01),
    # Text backbones have no readout that is fitted as well, so most tasks do not improve at 0.003.
    "seq2seq": (0.01, 0.03, 0.1),
    "causal": (0.01, 0.03, 0.1),
}
"""The learning rates that suit PT best, as measured on MiniLM and on the backbone of `benchmarks.text_universe`."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and how. PT takes more steps, without early stopping, at several learning rates: E_rel compares
    IST with the best that PT can do."""

    per_label: int = 16
    test_rows: int = 500
    """Most test rows of a task that are scored."""
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    pt_steps: int = 200
    pt_learning_rates: tuple[float, ...] | None = None
    """None: `PT_LEARNING_RATES` of the backbone's family."""


class Setup:
    """The backbone, the subspace and the options that methods are measured with."""

    def __init__(self, backbone: Backbone, subspace: Subspace, options: EvaluationOptions) -> None:
        self.backbone = subspace.placed(backbone)
        self.subspace = subspace
        self.options = options
        self.pt_learning_rates = options.pt_learning_rates or PT_LEARNING_RATES[backbone.family]


class Draw:
    """A task's few-shot examples, drawn by a seed, and the test rows that are scored."""

    def __init__(self, task: TaskDataset, seed: int, setup: Setup) -> None:
        backbone, options = setup.backbone, setup.options
        self.device = f"{backbone.device.type}, {str(backbone.dtype).removeprefix('torch.')}"
        self.task = task
        self.rows = rows_hash(task.train, task.test)
        self.seed = seed
        self.examples = few_shot(task.train, options.per_label, seed)
        self.test = _at_most(task.test, options.test_rows, seed)
        self.texts = [row.input for row in self.test]

    def measurement(self, method: str, answers: Sequence[str | None], seconds: float, detail: Detail) -> Measurement:
        """Score a method's answers to the test rows."""
        right = [exactly_matches(answer or "", row.output) for answer, row in zip(answers, self.test, strict=True)]
        score = sum(right) / len(self.test)
        task = self.task
        return Measurement(task.name, task.family, self.seed, method, score, seconds, detail, self.device, self.rows)


class Method(ABC):
    """A way to answer a task's test rows from a few examples."""

    slow: bool = False
    """A study may measure slow methods on fewer draws."""
    revision: int = REVISION
    uses_subspace: bool = True
    """False: its answers depend only on the backbone and on the length and placement of prompts."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def measure(self, setup: Setup, draws: Sequence[Draw]) -> Iterator[Measurement]:
        """Yield a measurement for each draw, in order; nothing if the backbone's family does not support the method.

        Raises:
            DatasetError: a task cannot be tuned on.
            IptError: the method needs a package that is not installed.
        """


def _at_most(rows: Sequence[Example], limit: int, seed: int) -> list[Example]:
    if len(rows) <= limit:
        return list(rows)
    chosen = np.random.default_rng([seed, 7]).permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(chosen.tolist())]
