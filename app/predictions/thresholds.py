"""Below which a classification answers no label."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import ipt

Reason = Literal["out_of_scope", "low_score"]


class Thresholds(NamedTuple):
    """The lowest score of a label, and the lowest `in_scope` of a text, that are answered; None if all are."""

    min_score: float | None = None
    min_in_scope: float | None = None

    def kept(self, labels: Sequence[str], scores: Mapping[str, float]) -> list[str]:
        """Return the labels of a multi-label task that are answered."""
        return [label for label in labels if self.min_score is None or scores[label] >= self.min_score]

    def reason(self, prediction: ipt.Prediction) -> Reason | None:
        """Return why a classification answers no label, None if it answers one."""
        in_scope, score = prediction.in_scope, max((prediction.scores or {}).values(), default=1.0)
        if self.min_in_scope is not None and in_scope is not None and in_scope < self.min_in_scope:
            return "out_of_scope"
        return "low_score" if self.min_score is not None and score < self.min_score else None
