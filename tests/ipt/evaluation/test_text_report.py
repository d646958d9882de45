"""Reports of text-to-text tasks."""

import pytest

import ipt
from ipt.errors import DatasetError
from ipt.tuning.label_scores import wilson_interval


def test_a_report_counts_exact_texts_and_lists_the_wrong_ones() -> None:
    examples = [ipt.Example(f"text {word}", word) for word in ("one", "two", "three", "four")]
    answers = [("one", 0.9), (" two ", 0.8), ("three 3", 0.4), ("4", 0.7)]
    report = ipt.text_report(examples, [ipt.Prediction(text=text, confidence=sure) for text, sure in answers])
    assert (report.rows, report.exact_match) == (4, 0.5)
    assert report.interval == wilson_interval(0.5, 4)
    assert [(each.row, each.expected, each.predicted, each.confidence) for each in report.wrong] == [
        (3, "four", "4", 0.7),
        (2, "three", "three 3", 0.4),
    ]
    assert report.token_f1 == report.rouge_l == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    assert report.right.tolist() == [True, True, False, False]


def test_predictions_without_a_text_are_refused() -> None:
    with pytest.raises(DatasetError, match="text-to-text"):
        ipt.text_report([ipt.Example("a", "b")], [ipt.Prediction("b", {"b": 1.0})])
    with pytest.raises(DatasetError, match="at least one example"):
        ipt.text_report([], [])
