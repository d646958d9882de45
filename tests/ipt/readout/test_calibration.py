"""Confidences of texts become probabilities."""

import numpy as np
import pytest

from ipt.errors import CheckpointError
from ipt.readout.calibration import Calibration


def test_without_examples_a_confidence_stays_as_it_is() -> None:
    calibration = Calibration.fit([], [])
    for confidence in (0.01, 0.5, 0.99):
        assert calibration(confidence) == pytest.approx(confidence)


def test_confidences_of_an_overconfident_model_fit_how_often_it_is_right() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.5, 0.999, 400)
    right = rng.random(400) < confidences**6
    calibration = Calibration.fit(confidences.tolist(), right.tolist())
    fresh = rng.uniform(0.5, 0.999, 4000)
    calibrated = np.array([calibration(each) for each in fresh.tolist()])
    truth = fresh**6
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)):
        within = (calibrated >= low) & (calibrated < high)
        assert within.sum() > 100
        assert calibrated[within].mean() == pytest.approx(truth[within].mean(), abs=0.06)


def test_a_more_confident_text_is_never_less_probable() -> None:
    calibration = Calibration.fit([0.1, 0.2, 0.9, 0.95] * 20, [True, True, False, False] * 20)
    assert calibration(0.2) < calibration(0.5) < calibration(0.9)


def test_a_few_examples_move_the_map_a_little() -> None:
    wrong, right = (Calibration.fit([0.9] * 4, [outcome] * 4) for outcome in (False, True))
    assert 0.3 < wrong(0.9) < 0.9 < right(0.9) < 0.99


@pytest.mark.parametrize(("slope", "offset"), [(0.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_a_damaged_calibration_is_rejected(slope: float, offset: float) -> None:
    with pytest.raises(CheckpointError, match="needs a positive slope"):
        Calibration(slope, offset)
