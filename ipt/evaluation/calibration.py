"""Calibration: whether a classifier is right as often as its scores say.

Letters: M rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Intervals of equal width that scores from 0 to 1 are counted in."""


@dataclass(frozen=True)
class CalibrationBin:
    """The rows whose highest score is above `low` and at most `high`; without rows, both means are None."""

    low: float
    high: float
    rows: int
    mean_score: float | None
    accuracy: float | None


def calibration_bins(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Count the rows by their highest score [M], and those that are answered right [M]."""
    edges = np.arange(BINS + 1) / BINS  # 0.3 rather than 0.30000000000000004
    places = np.searchsorted(edges[1:-1], scores, side="left")
    bins = []
    for place in range(BINS):
        inside = places == place
        rows = int(inside.sum())
        means = (float(scores[inside].mean()), float(right[inside].mean())) if rows else (None, None)
        bins.append(CalibrationBin(float(edges[place]), float(edges[place + 1]), rows, *means))
    return tuple(bins)


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean distance between score and accuracy, weighted by rows (Naeini et al., 2015)."""
    total = sum(each.rows for each in bins)
    distances = [
        each.rows * abs(each.mean_score - each.accuracy)
        for each in bins
        if each.mean_score is not None and each.accuracy is not None
    ]
    return sum(distances) / total
