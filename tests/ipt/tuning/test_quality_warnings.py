"""Warnings about the quality of an adaptation."""

import pytest

from ipt.readout.label_errors import SuspectLabel
from ipt.tuning.label_scores import score_labels
from ipt.tuning.quality_warnings import label_set_suspect_warnings, quality_warnings

WORSE, NO_BETTER = "worse than it would be without a prompt", "no better than its baselines"


@pytest.mark.parametrize(
    ("score", "start", "baseline", "fault"),
    [
        (0.6, 0.5, 0.7, WORSE),  # although tuning improved the score
        (0.6, 0.7, 0.7, WORSE),
        (0.7, 0.7, 0.7, NO_BETTER),
        (0.7, 0.8, 0.7, NO_BETTER),
        (0.7, 0.5, 0.7, None),
        (0.8, 0.9, 0.7, None),
        (0.8, 0.7, 0.7, None),
    ],
)
def test_a_task_that_does_not_beat_its_baselines_causes_a_warning(
    score: float, start: float, baseline: float, fault: str | None
) -> None:
    warnings = quality_warnings(score, start, baseline, 40)
    scores = f"{score:.1%} right, {start:.1%} before tuning, {baseline:.1%} without a prompt"
    assert [warning.partition(";")[0] for warning in warnings] == (
        [f"on 40 held-back examples the tuned task is {fault}: {scores}"] if fault else []
    )


def test_a_score_of_few_examples_causes_a_warning() -> None:
    assert "measured on only 19 held-back examples" in quality_warnings(0.9, 0.5, 0.5, 19)[0]
    assert not quality_warnings(0.9, 0.5, 0.5, 20)
    assert "nothing was measured" in quality_warnings(None, 0.5, 0.5, 0)[0]


def test_texts_that_the_backbone_cannot_read_need_another_backbone_instead_of_more_examples() -> None:
    guessing = score_labels([0, 0], [0, 1], ["a", "b"], [0, 1])
    for warnings in (
        quality_warnings(0.5, 0.5, 0.5, 2, guessing, unknown_tokens=0.97),
        quality_warnings(None, None, None, 0, unknown_tokens=0.97),
    ):
        assert warnings[0].startswith("the backbone cannot read the script of these texts: 97% of their tokens")
        assert "multilingual" in warnings[0]
        assert not any(f"{advice} " in warning for warning in warnings for advice in ("more examples may", "give"))
    assert "give validation_examples" in quality_warnings(None, None, None, 0, unknown_tokens=0.4)[0]


def test_wrong_label_sets_are_named_with_what_should_change() -> None:
    suspects = [SuspectLabel(3, 0, True, 0.9), SuspectLabel(5, 1, False, 0.85), SuspectLabel(6, 1, True, 0.79)]
    places = [f"examples[{row}]" for row in range(20)]
    [warning] = label_set_suspect_warnings(suspects, places, ["bug", "login"])
    assert warning.endswith("examples[3] (with 'bug'), examples[5] (without 'login')")
    assert not label_set_suspect_warnings(suspects, places[:19], ["bug", "login"])
