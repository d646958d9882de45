"""Reports of multi-label tasks: every number is scikit-learn's, as in `test_classification_report`."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ipt
from ipt.errors import DatasetError
from ipt.evaluation.multilabel_report import MultiLabelReport, report_label_sets
from ipt.readout.thresholds import cross_fitted_thresholds
from ipt.tuning.held_out import HeldOutLogits

LABELS = ["billing", "bug", "idle", "login"]
GOLDEN: dict[str, Any] = {'micro_f1': 0.5972222222222222,
 'macro_f1': 0.455341446923597,
 'samples_f1': 0.5522222222222222,
 'subset_accuracy': 0.3333333333333333,
 'log_loss': 0.5209665660021345,
 'precision': [0.7857142857142857, 0.4444444444444444, 0.0, 0.42857142857142855],
 'recall': [0.7333333333333333, 0.6666666666666666, None, 0.6923076923076923],
 'f1': [0.7586206896551724, 0.5333333333333333, 0.0, 0.5294117647058824],
 'support': [30, 18, 0, 13],
 'mean_scores': [0.056101898668409665,
                 0.1509788838914732,
                 0.2565647668891666,
                 0.34576643412439384,
                 0.4462785521769147,
                 0.5508676470970996,
                 0.6392006086968213,
                 0.749437560328172,
                 0.8482084472975083,
                 0.9187846182355909],
 'accuracies': [0.2857142857142857,
                0.0,
                0.05555555555555555,
                0.16666666666666666,
                0.25,
                0.20588235294117646,
                0.52,
                0.6875,
                0.6666666666666666,
                1.0]}  # fmt: skip


def rows_of(seed: int, rows: int = 60) -> tuple[list[ipt.Example], NDArray[np.float64], NDArray[np.bool_]]:
    """Return examples without the label "idle", scores, and answers; some rows have no label."""
    rng = np.random.default_rng(seed)
    expected = rng.random((rows, 4)) < [0.5, 0.3, 0.0, 0.2]
    logits = rng.normal(size=(rows, 4)) + 1.5 * expected - 0.7
    words = ["alpha", "beta", "gamma", "delta", "omega"]
    examples = [
        ipt.Example.with_labels(
            f"{words[row % 5]} {words[row // 5 % 5]} {words[row // 25]}",
            [label for label, has in zip(LABELS, expected[row], strict=True) if has],
        )
        for row in range(rows)
    ]
    return examples, 1 / (1 + np.exp(-logits)), logits >= [0.2, 0.0, 0.4, -0.1]


def numbers(report: MultiLabelReport) -> dict[str, Any]:
    """Return the numbers of a report that scikit-learn computes too."""
    return {
        "micro_f1": report.summary.micro_f1,
        "macro_f1": report.summary.macro_f1,
        "samples_f1": report.summary.samples_f1,
        "subset_accuracy": report.summary.subset_accuracy,
        "log_loss": report.log_loss,
        "precision": [each.precision for each in report.labels],
        "recall": [each.recall for each in report.labels],
        "f1": [each.f1 for each in report.labels],
        "support": [each.support for each in report.labels],
        "mean_scores": [each.mean_score for each in report.calibration if each.rows],
        "accuracies": [each.accuracy for each in report.calibration if each.rows],
    }


def by_scikit_learn(
    examples: list[ipt.Example], scores: NDArray[np.float64], answered: NDArray[np.bool_]
) -> dict[str, Any]:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    from sklearn.calibration import calibration_curve

    expected = np.array([[label in example.labels for label in LABELS] for example in examples])
    precision, recall, f1, support = metrics.precision_recall_fscore_support(expected, answered, zero_division=np.nan)
    accuracies, mean_scores = calibration_curve(expected.ravel(), scores.ravel(), n_bins=10)
    return {
        "micro_f1": metrics.f1_score(expected, answered, average="micro"),
        "macro_f1": metrics.f1_score(expected, answered, average="macro", zero_division=np.nan),
        "samples_f1": metrics.f1_score(expected, answered, average="samples", zero_division=1.0),
        "subset_accuracy": metrics.accuracy_score(expected, answered),
        "log_loss": float(np.mean([metrics.log_loss(expected[:, c], scores[:, c], labels=[False, True])
                                   for c in range(len(LABELS))])),
        "precision": [None if math.isnan(value) else value for value in precision.tolist()],
        "recall": [None if math.isnan(value) else value for value in recall.tolist()],
        "f1": [None if math.isnan(value) else value for value in f1.tolist()],
        "support": support.tolist(),
        "mean_scores": mean_scores.tolist(),
        "accuracies": accuracies.tolist(),
    }  # fmt: skip


def report_of(seed: int) -> MultiLabelReport:
    examples, scores, answered = rows_of(seed)
    return report_label_sets(LABELS, examples, range(60), scores, answered)


def approximately(values: dict[str, Any]) -> dict[str, Any]:
    """Compare each number, also of lists, to a relative error of 1e-9."""
    return {
        name: [value if value is None else pytest.approx(value, rel=1e-9) for value in each]
        if isinstance(each, list)
        else pytest.approx(each, rel=1e-9)
        for name, each in values.items()
    }


def test_every_number_is_that_of_scikit_learn() -> None:
    assert numbers(report_of(0)) == approximately(GOLDEN)


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_computes_these_numbers(seed: int) -> None:
    expected = by_scikit_learn(*rows_of(seed))
    assert numbers(report_of(seed)) == approximately(expected)
    assert seed or expected == approximately(GOLDEN)


def test_wrong_rows_have_the_labels_that_differ_the_surest_first() -> None:
    report = report_of(1)
    examples, _, answered = rows_of(1)
    assert len(report.wrong) == int((~report.right).sum()) > 0
    first = report.wrong[0]
    assert (first.input, first.expected) == (examples[first.row].input, tuple(examples[first.row].labels))
    assert first.predicted == tuple(label for label, flag in zip(LABELS, answered[first.row], strict=True) if flag)
    assert set(first.scores) == set(first.expected) ^ set(first.predicted)

    def sure(wrong: Any) -> float:
        return max(value if label in wrong.predicted else 1 - value for label, value in wrong.scores.items())

    assert [sure(each) for each in report.wrong] == sorted(map(sure, report.wrong), reverse=True)


def test_unknown_labels_are_counted_and_left_out() -> None:
    examples, scores, answered = rows_of(2)
    changed = [ipt.Example.with_labels(each.input, [*each.labels, "weather"]) if row % 7 == 0 and each.labels else each
               for row, each in enumerate(examples)]  # fmt: skip
    only_unknown = [ipt.Example.with_labels("how is the weather", ["weather"])] * 2
    report = report_label_sets(
        LABELS,
        [*only_unknown, *changed],
        range(62),
        np.concatenate([scores[:2], scores]),
        np.concatenate([answered[:2], answered]),
    )
    assert report.unknown_labels == {"weather": 2 + sum(a != b for a, b in zip(examples, changed, strict=True))}
    assert numbers(report) == numbers(report_of(2))
    assert report.measured == tuple(range(2, 62))
    with pytest.raises(DatasetError, match="knows none of the labels of these examples \\('weather'\\)"):
        report_label_sets(LABELS, only_unknown, range(2), scores[:2], answered[:2])


def test_a_report_of_predictions_equals_that_of_their_scores() -> None:
    examples, scores, answered = rows_of(3)
    predictions = [
        ipt.Prediction(
            labels=tuple(label for label, flag in zip(LABELS, flags, strict=True) if flag),
            scores=dict(zip(LABELS, row.tolist(), strict=True)),
        )
        for row, flags in zip(scores, answered, strict=True)
    ]
    assert ipt.multilabel_report(examples, predictions) == report_of(3)
    with pytest.raises(DatasetError, match="one multi-label task"):
        ipt.multilabel_report(examples[:1], [ipt.Prediction("billing", {"billing": 1.0})])
    with pytest.raises(DatasetError, match="at least one example"):
        ipt.multilabel_report([], [])


def test_a_held_out_report_uses_thresholds_of_other_rows() -> None:
    examples, scores, _ = rows_of(4)
    order = np.random.default_rng(0).permutation(60)[:40]
    logits = (np.log(scores / (1 - scores)) + 1.0)[order].astype(np.float32)
    report = ipt.held_out_multilabel_report(LABELS, examples, HeldOutLogits(order.astype(np.int32), logits))
    measured = [examples[row] for row in order]
    expected = torch.tensor([[label in example.labels for label in LABELS] for example in measured])
    exact = torch.from_numpy(logits.astype(np.float64))
    thresholds = cross_fitted_thresholds(exact, expected, range(40))
    shifted = 1 / (1 + np.exp(-exact.numpy()))
    assert report == report_label_sets(LABELS, measured, order.tolist(), shifted, (exact >= thresholds).numpy())
    assert len(thresholds.unique(dim=0)) > 1
