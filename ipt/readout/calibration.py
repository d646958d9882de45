"""Calibration of a text's confidence: from the probabilities of its tokens to the probability that the text is right.

Platt's logistic map (Platt 1999), fitted to held-back examples by the maximum of the posterior, with the identity as
the most likely map before any example: eight examples move it a little, a hundred almost decide it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipt.errors import CheckpointError

_LEAST = 1e-4
"""Confidences are kept this far from 0 and 1, so that their logits are finite."""
_LEAST_SLOPE = 0.05
"""A more confident text never gets a lower probability."""
_PRECISION = 1.0
"""Of the prior of slope and offset, whose means are 1 and 0."""
_NEWTON_STEPS = 50


@dataclass(frozen=True, slots=True)
class Calibration:
    """Maps a confidence to `sigmoid(slope * logit(confidence) + offset)`; the identity by default."""

    slope: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.offset) and self.slope > 0):
            raise CheckpointError(
                f"a calibration needs a positive slope and an offset, both finite, got {self.slope} and {self.offset}"
            )

    @classmethod
    def fit(cls, confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
        """Fit the map to texts of which it is known whether they are right."""
        features = np.stack([_logits(confidences), np.ones(len(confidences))], axis=1)
        targets = np.asarray(right, dtype=np.float64)
        mean = np.array([1.0, 0.0])
        weights = mean.copy()
        for _ in range(_NEWTON_STEPS):
            probabilities = 1.0 / (1.0 + np.exp(-features @ weights))
            gradient = features.T @ (probabilities - targets) + _PRECISION * (weights - mean)
            curvature = (features.T * (probabilities * (1.0 - probabilities))) @ features + _PRECISION * np.eye(2)
            step = np.linalg.solve(curvature, gradient)
            # The logits are bounded and the prior is strictly convex, but a whole step may overshoot.
            weights = weights - step / max(1.0, float(np.abs(step).max()))
        return cls(max(_LEAST_SLOPE, float(weights[0])), float(weights[1]))

    def __call__(self, confidence: float) -> float:
        """Return the probability that a text of this confidence is right."""
        logit = self.slope * float(_logits([confidence])[0]) + self.offset
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0


IDENTITY = Calibration()
"""Of tasks that were not calibrated."""


def _logits(confidences: Sequence[float]) -> np.ndarray:
    clipped = np.clip(np.asarray(confidences, dtype=np.float64), _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))
