"""Scores label by label, and when a score is no better than guessing."""

import pytest

from ipt.tuning.label_scores import LabelScores, score_labels, wilson_interval


def scores_of(right: dict[str, list[bool]], unmeasured: tuple[str, ...] = ()) -> LabelScores:
    """Return the scores of answers that are right or wrong, by label."""
    labels = [*right, *unmeasured]
    rows = [(number, is_right) for number, answers in enumerate(right.values()) for is_right in answers]
    predicted = [number if is_right else len(labels) for number, is_right in rows]
    return score_labels(predicted, [number for number, _ in rows], labels, range(len(rows)))


def test_a_rare_label_that_is_never_right_is_named() -> None:
    scores = scores_of({"common": [True] * 197, "rare": [False] * 3})
    assert (scores.accuracy, scores.balanced_accuracy) == (0.985, 0.5)
    metrics = scores.metrics()
    assert (metrics["worst_label"], metrics["worst_label_accuracy"], metrics["chance_score"]) == ("rare", 0.0, 0.985)
    guessing, never = scores.warnings()
    assert "no better than guessing: always answering with the most frequent label scores 98.5%" in guessing
    assert "none of the 3 measured texts of 'rare' is answered right" in never


def test_a_label_that_was_not_measured_is_named() -> None:
    scores = scores_of({"a": [True] * 9, "b": [True] * 9}, unmeasured=("c",))
    assert scores.metrics()["unmeasured_labels"] == 1
    [warning] = scores.warnings()
    assert warning.startswith("the score says nothing about 'c'")


@pytest.mark.parametrize(("right", "guessing"), [(30, False), (18, False), (17, True), (12, True), (6, True)])
def test_a_score_whose_interval_holds_chance_is_no_better_than_guessing(right: int, guessing: bool) -> None:
    answers = [index < right for index in range(36)]
    scores = scores_of({"a": answers[::3], "b": answers[1::3], "c": answers[2::3]})
    assert scores.chance == pytest.approx(1 / 3)
    assert scores.is_guessing is guessing
    assert any("no better than guessing" in warning for warning in scores.warnings()) is guessing


def test_near_duplicates_make_an_interval_no_narrower() -> None:
    classes = [0, 1] * 20
    once = score_labels(classes, classes, ["a", "b"], [row % 4 for row in range(40)])
    assert once.texts == 4
    assert once.interval == wilson_interval(1.0, 4)


def test_the_interval_is_wilsons() -> None:
    low, high = wilson_interval(0.5, 10)
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)  # as in R: binom.confint(5, 10, methods = "wilson")
    assert wilson_interval(0.0, 5)[0] == 0.0
    assert wilson_interval(1.0, 5)[1] == pytest.approx(1.0)
