"""Scores of a classifier label by label, and whether its answers are better than guessing.

Letters: M measured rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ipt.data.names import is_short_name, listed
from ipt.tuning.job import Metrics

UNMEASURED: Metrics = {
    "score_source": "none",
    "score": None,
    "start_score": None,
    "baseline_score": None,
    "held_back": 0,
}
"""The metrics of an adaptation of which nothing could be measured."""
_NORMAL_QUANTILE = 1.96
"""Of the 97.5th percentile, for intervals that hold the true value with 95 %."""


@dataclass(frozen=True)
class LabelScores:
    """Shares of right answers on measured rows, for each label that was measured."""

    accuracy: float
    chance: float
    """Share of the most frequent label: the accuracy of always answering with it."""
    accuracy_of: dict[str, float]
    rows_of: dict[str, int]
    texts: int
    """Different texts among the measured rows; near-duplicates count once."""
    unmeasured: tuple[str, ...]
    """Labels without any measured row."""

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the labels' accuracies, in which a rare label counts as much as a frequent one."""
        return fmean(self.accuracy_of.values())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson, 1927)."""
        return wilson_interval(self.accuracy, self.texts)

    @property
    def is_guessing(self) -> bool:
        """Whether the interval of the accuracy contains or is below chance."""
        return self.interval[0] <= self.chance

    def metrics(self) -> Metrics:
        """Return the metrics of an adaptation."""
        worst = min(self.accuracy_of, key=self.accuracy_of.__getitem__)
        low, high = self.interval
        return {
            "score_low": low,
            "score_high": high,
            "chance_score": self.chance,
            "balanced_accuracy": self.balanced_accuracy,
            "worst_label": worst,
            "worst_label_accuracy": self.accuracy_of[worst],
            "unmeasured_labels": len(self.unmeasured),
        }

    def guessing_warning(self) -> str:
        """Return a warning that the answers are no better than guessing, which `is_guessing` says."""
        low, high = self.interval
        return (
            f"the score of {self.accuracy:.1%} on {self.texts} different texts (95 % interval {low:.0%} to {high:.0%}) "
            f"is no better than guessing: always answering with the most frequent label scores {self.chance:.1%}"
        )

    def warnings(self) -> list[str]:
        """Warn if the answers are no better than guessing, and of labels that were never right or not measured."""
        warnings = [self.guessing_warning()] if self.is_guessing else []
        never = [label for label, accuracy in self.accuracy_of.items() if accuracy == 0.0]
        if never:
            rows = sum(self.rows_of[label] for label in never)
            warnings.append(
                f"none of the {rows} measured texts of {_named(never)} is answered right; the balanced accuracy, in "
                f"which every label counts the same, is {self.balanced_accuracy:.1%}: give more examples of "
                f"{'this label' if len(never) == 1 else 'these labels'}"
            )
        if self.unmeasured:
            warnings.append(
                f"the score says nothing about {_named(self.unmeasured)}, which could not be measured: give more "
                f"different texts of {'this label' if len(self.unmeasured) == 1 else 'these labels'}"
            )
        return warnings


def score_labels(
    predicted: Sequence[int], classes: Sequence[int], labels: Sequence[str], groups: Sequence[int]
) -> LabelScores:
    """Score at least one answer.

    Args:
        predicted, classes: [M], numbers of labels.
        labels: all labels of the task.
        groups: [M]; near-duplicates share a group.
    """
    rows = Counter(classes)
    right = Counter(c for answer, c in zip(predicted, classes, strict=True) if answer == c)
    measured = [number for number in range(len(labels)) if rows[number]]
    return LabelScores(
        accuracy=right.total() / len(classes),
        chance=max(rows.values()) / len(classes),
        accuracy_of={labels[number]: right[number] / rows[number] for number in measured},
        rows_of={labels[number]: rows[number] for number in measured},
        texts=len(set(groups)),
        unmeasured=tuple(label for number, label in enumerate(labels) if not rows[number]),
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a probability of which `share` was observed in `count` independent trials."""
    square = _NORMAL_QUANTILE**2
    center = (share + square / (2 * count)) / (1 + square / count)
    spread = share * (1 - share) / count + square / (4 * count**2)
    width = _NORMAL_QUANTILE * math.sqrt(spread) / (1 + square / count)
    return max(0.0, center - width), min(1.0, center + width)


def _named(labels: Sequence[str]) -> str:
    """Return the labels in quotes, or their number if they are too long to quote."""
    short = [repr(label) for label in labels if is_short_name(label)]
    return listed(short) if len(short) == len(labels) else f"{len(labels)} labels"
