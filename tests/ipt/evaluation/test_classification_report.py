"""Reports of classification tasks: every number is scikit-learn's.

`GOLDEN` holds what scikit-learn computes, so that the tests need no scikit-learn; where it is installed
(`make test-optional`), its numbers are computed again, of this and of other rows.
"""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ipt
from ipt.errors import DatasetError
from ipt.evaluation.classification_report import Report, report_scores
from ipt.tuning.held_out import HeldOutLogits

LABELS = ["billing", "bug", "idle", "login", "praise"]
GOLDEN: dict[str, Any] = {
    "accuracy": 0.3333333333333333,
    "balanced_accuracy": 0.32675438596491224,
    "macro_f1": 0.24631690514043453,
    "weighted_f1": 0.31679915209326975,
    "log_loss": 3.2830557702120045,
    "precision": [0.35, 0.3333333333333333, 0.0, 0.5, None],
    "recall": [0.5, 0.3333333333333333, None, 0.47368421052631576, 0.0],
    "f1": [0.4117647058823529, 0.3333333333333333, 0.0, 0.4864864864864865, 0.0],
    "support": [14, 12, 0, 19, 15],
    "confusion": [[7, 2, 3, 2, 0], [2, 4, 1, 5, 0], [0, 0, 0, 0, 0], [5, 3, 2, 9, 0], [6, 3, 4, 2, 0]],
    "mean_scores": [0.35925529313563337, 0.45359537286788587, 0.5472049682881218, 0.6520718921595106,
                    0.7471473648730745],
    "accuracies": [0.09090909090909091, 0.43478260869565216, 0.42857142857142855, 0.2222222222222222,
                   0.3333333333333333],
}  # fmt: skip


def rows_of(seed: int, rows: int = 60) -> tuple[list[ipt.Example], NDArray[np.float64]]:
    """Return examples without the label "idle" and scores that never favor "praise"."""
    rng = np.random.default_rng(seed)
    expected = rng.choice([0, 1, 3, 4], size=rows)
    logits = rng.normal(size=(rows, len(LABELS)))
    logits[np.arange(rows), expected] += 1.0
    logits[:, 4] -= 9.0
    scores = np.exp(logits)
    words = ["alpha", "beta", "gamma", "delta", "omega"]
    examples = [
        ipt.Example(f"{words[row % 5]} {words[row // 5 % 5]} {words[row // 25]}", LABELS[c])
        for row, c in enumerate(expected)
    ]
    return examples, scores / scores.sum(axis=1, keepdims=True)


def numbers(report: Report) -> dict[str, Any]:
    """Return the numbers of a report that scikit-learn computes too."""
    return {
        "accuracy": report.summary.accuracy,
        "balanced_accuracy": report.summary.balanced_accuracy,
        "macro_f1": report.macro_f1,
        "weighted_f1": report.weighted_f1,
        "log_loss": report.log_loss,
        "precision": [each.precision for each in report.labels],
        "recall": [each.recall for each in report.labels],
        "f1": [each.f1 for each in report.labels],
        "support": [each.support for each in report.labels],
        "confusion": [list(row) for row in report.confusion],
        "mean_scores": [each.mean_score for each in report.calibration if each.rows],
        "accuracies": [each.accuracy for each in report.calibration if each.rows],
    }


def by_scikit_learn(examples: list[ipt.Example], scores: NDArray[np.float64]) -> dict[str, Any]:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    from sklearn.calibration import calibration_curve

    expected = np.array([LABELS.index(example.output) for example in examples])
    predicted = scores.argmax(axis=1)
    every = list(range(len(LABELS)))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        expected, predicted, labels=every, zero_division=np.nan
    )
    accuracies, mean_scores = calibration_curve(predicted == expected, scores.max(axis=1), n_bins=10)
    return {
        "accuracy": metrics.accuracy_score(expected, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(expected, predicted),
        "macro_f1": metrics.f1_score(expected, predicted, average="macro"),
        "weighted_f1": metrics.f1_score(expected, predicted, average="weighted"),
        "log_loss": metrics.log_loss(expected, scores, labels=every),
        "precision": [None if math.isnan(value) else value for value in precision.tolist()],
        "recall": [None if math.isnan(value) else value for value in recall.tolist()],
        "f1": [None if math.isnan(value) else value for value in f1.tolist()],
        "support": support.tolist(),
        "confusion": metrics.confusion_matrix(expected, predicted, labels=every).tolist(),
        "mean_scores": mean_scores.tolist(),
        "accuracies": accuracies.tolist(),
    }


def test_the_numbers_are_those_of_scikit_learn() -> None:
    examples, scores = rows_of(0)
    measured = numbers(report_scores(LABELS, examples, range(len(examples)), scores))
    assert measured.keys() == GOLDEN.keys()
    for name, value in GOLDEN.items():
        assert measured[name] == (value if name == "confusion" else pytest.approx(value, abs=1e-12)), name


@pytest.mark.parametrize("seed", range(20))
def test_scikit_learn_computes_the_same(seed: int) -> None:
    examples, scores = rows_of(seed, rows=10 + 5 * seed if seed else 60)
    expected = by_scikit_learn(examples, scores)
    measured = numbers(report_scores(LABELS, examples, range(len(examples)), scores))
    for name, value in expected.items():
        assert measured[name] == (value if name == "confusion" else pytest.approx(value, abs=1e-12)), name
        if seed == 0:
            assert GOLDEN[name] == (value if name == "confusion" else pytest.approx(value, abs=1e-12)), name


def test_wrong_answers_are_listed_with_the_surest_first() -> None:
    examples, scores = rows_of(3)
    report = report_scores(LABELS, examples, range(100, 160), scores)
    wrong = [place for place, row in enumerate(scores) if LABELS[row.argmax()] != examples[place].output]
    assert sorted(answer.row for answer in report.wrong) == [100 + place for place in wrong]
    sureness = [answer.predicted_score for answer in report.wrong]
    assert sureness == sorted(sureness, reverse=True)
    first = report.wrong[0]
    row = scores[first.row - 100]
    assert (first.input, first.expected) == (examples[first.row - 100].input, examples[first.row - 100].output)
    assert (first.predicted_score, first.predicted) == (row.max(), LABELS[row.argmax()])
    assert first.expected_score == row[LABELS.index(first.expected)]


def test_unknown_labels_are_counted_and_not_measured() -> None:
    examples, scores = rows_of(4)
    changed = [ipt.Example(example.input, "Login" if example.output == "login" else example.output)
               for example in examples]  # fmt: skip
    others = [ipt.Example("how is the weather", "weather")] * 3
    report = report_scores(LABELS, [*others, *changed], range(63), np.concatenate([scores[:3], scores]))
    assert report.unknown_labels == {"weather": 3}
    assert numbers(report) == numbers(report_scores(LABELS, examples, range(60), scores))
    assert report.measured == tuple(range(3, 63))
    with pytest.raises(DatasetError, match="knows none of the labels of these examples \\('weather'\\)"):
        report_scores(LABELS, others, range(3), scores[:3])


def test_a_report_of_no_examples_is_an_error() -> None:
    with pytest.raises(DatasetError, match="at least one example"):
        ipt.report([], [])


def test_a_report_of_predictions_equals_that_of_their_scores() -> None:
    examples, scores = rows_of(5)
    predictions = [ipt.Prediction(LABELS[row.argmax()], dict(zip(LABELS, row.tolist(), strict=True))) for row in scores]
    assert ipt.report(examples, predictions) == report_scores(LABELS, examples, range(60), scores)
    predictions[1] = ipt.Prediction(text="an answer")
    with pytest.raises(DatasetError, match="one classification task"):
        ipt.report(examples, predictions)


def test_a_held_out_report_reads_the_rows_of_the_dataset() -> None:
    examples, scores = rows_of(6)
    order = np.random.default_rng(0).permutation(60)[:40]
    held_out = HeldOutLogits(order.astype(np.int32), (np.log(scores[order]) + 5).astype(np.float32))
    expected = report_scores(LABELS, [examples[row] for row in order], order.tolist(), scores[order])
    report = ipt.held_out_report(LABELS, examples, held_out)
    assert report.confusion == expected.confusion
    assert report.log_loss == pytest.approx(expected.log_loss, abs=1e-6)
    assert [answer.row for answer in report.wrong] == [answer.row for answer in expected.wrong]
