"""Calibration: the bins of scores, and the expected calibration error."""

import numpy as np
import pytest

from ipt.evaluation.calibration import calibration_bins, expected_calibration_error


def test_rows_are_counted_by_score_and_the_error_is_the_mean_distance_between_score_and_accuracy() -> None:
    scores = np.array([0.31, 0.39, 0.4, 0.95, 1.0])
    right = np.array([True, False, False, True, True])
    bins = calibration_bins(scores, right)
    assert [each.rows for each in bins] == [0, 0, 0, 3, 0, 0, 0, 0, 0, 2]
    assert (bins[3].low, bins[3].high) == pytest.approx((0.3, 0.4))
    assert (bins[3].mean_score, bins[3].accuracy) == pytest.approx((1.1 / 3, 1 / 3))
    assert bins[0].mean_score is None
    assert expected_calibration_error(bins) == pytest.approx((3 * (1.1 / 3 - 1 / 3) + 2 * (1.0 - 0.975)) / 5)
