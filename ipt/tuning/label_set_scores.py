"""Scores of answers that are sets of labels, and whether they are better than guessing.

Letters: M measured rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipt.data.names import is_short_name, listed
from ipt.tuning.job import Metrics
from ipt.tuning.label_scores import wilson_interval

LabelSets = NDArray[np.bool_]
"""[M, C]: which labels each row has."""


@dataclass(frozen=True)
class LabelSetScores:
    """How well answers agree with the labels of measured rows."""

    micro_f1: float
    """Of all pairs of a row and a label together."""
    macro_f1: float
    """The mean F1 of the labels that occur in the rows or the answers; 1 if none occurs."""
    samples_f1: float
    """The mean over the rows; a row without labels that gets none counts 1."""
    subset_accuracy: float
    """Share of the rows whose labels are all right, and no others answered."""
    chance: float
    """Micro F1 of the best answer that is the same for every row."""
    f1_of: dict[str, float]
    """Of each label that has a measured row."""
    rows: int
    texts: int
    """Different texts among the measured rows; near-duplicates count once."""
    unmeasured: tuple[str, ...]
    """Labels without any measured row."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the subset accuracy (Wilson, 1927)."""
        return wilson_interval(self.subset_accuracy, self.texts)

    @property
    def is_guessing(self) -> bool:
        """Whether one answer for every row would be as good."""
        return self.micro_f1 <= self.chance

    def metrics(self) -> Metrics:
        """Return the metrics of an adaptation."""
        low, high = self.interval
        metrics: Metrics = {
            "macro_f1": self.macro_f1,
            "samples_f1": self.samples_f1,
            "subset_accuracy": self.subset_accuracy,
            "subset_accuracy_low": low,
            "subset_accuracy_high": high,
            "chance_score": self.chance,
            "unmeasured_labels": len(self.unmeasured),
        }
        if self.f1_of:
            worst = min(self.f1_of, key=self.f1_of.__getitem__)
            metrics |= {"worst_label": worst, "worst_label_f1": self.f1_of[worst]}
        return metrics

    def guessing_warning(self) -> str:
        """Return a warning that the answers are no better than guessing, which `is_guessing` says."""
        return (
            f"the micro F1 of {self.micro_f1:.1%} on {self.texts} different texts is no better than guessing: the same "
            f"labels for every text score {self.chance:.1%}"
        )

    def warnings(self) -> list[str]:
        """Warn if the answers are no better than guessing, and of labels that are never right or not measured."""
        warnings = [self.guessing_warning()] if self.is_guessing else []
        never = [label for label, f1 in self.f1_of.items() if f1 == 0.0]
        if never:
            warnings.append(f"no measured text gets {_named(never)} rightly: give more examples of this kind")
        if self.unmeasured:
            warnings.append(
                f"the score says nothing about {_named(self.unmeasured)}, which could not be measured: give more "
                f"different texts of {'this label' if len(self.unmeasured) == 1 else 'these labels'}"
            )
        return warnings


def score_label_sets(
    answered: LabelSets, expected: LabelSets, labels: Sequence[str], groups: Sequence[int]
) -> LabelSetScores:
    """Score at least one answer; near-duplicate rows share one of the `groups` [M]."""
    right = (answered & expected).sum(axis=0)
    sizes = answered.sum(axis=0) + expected.sum(axis=0)
    f1 = np.divide(2 * right, sizes, out=np.zeros(len(labels)), where=sizes > 0)
    support = expected.sum(axis=0)
    return LabelSetScores(
        micro_f1=_ratio(2 * right.sum(), sizes.sum()),
        macro_f1=float(f1[sizes > 0].mean()) if (sizes > 0).any() else 1.0,
        samples_f1=float(f1_of_rows(answered, expected).mean()),
        subset_accuracy=float((answered == expected).all(axis=1).mean()),
        chance=_best_constant_f1(support, len(expected)),
        f1_of={label: float(f1[c]) for c, label in enumerate(labels) if support[c]},
        rows=len(expected),
        texts=len(set(groups)),
        unmeasured=tuple(label for c, label in enumerate(labels) if not support[c]),
    )


def f1_of_rows(answered: LabelSets, expected: LabelSets) -> NDArray[np.float64]:
    """Return the F1 [M] of each row; 1 where it neither has nor gets a label."""
    sizes = answered.sum(axis=1) + expected.sum(axis=1)
    right = 2 * (answered & expected).sum(axis=1)
    f1: NDArray[np.float64] = np.divide(right, sizes, out=np.ones(len(expected)), where=sizes > 0)
    return f1


def _best_constant_f1(support: NDArray[np.int64], rows: int) -> float:
    """Return the highest micro F1 of answering the most frequent labels for every row."""
    right = np.sort(support)[::-1].cumsum()
    answered = rows * np.arange(1, len(support) + 1)
    return float((2 * right / (answered + support.sum())).max())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0


def _named(labels: Sequence[str]) -> str:
    """Return the labels in quotes, or their number if they are too long to quote."""
    short = [repr(label) for label in labels if is_short_name(label)]
    return listed(short) if len(short) == len(labels) else f"{len(labels)} labels"
