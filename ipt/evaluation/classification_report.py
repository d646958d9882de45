"""The report of a classification task: what it answers right and wrong, label by label, and whether its scores hold.

Letters: M measured rows, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ipt.data.examples import Example
from ipt.data.labels import matching_labels
from ipt.data.near_duplicates import near_duplicate_groups
from ipt.errors import DatasetError
from ipt.evaluation.calibration import CalibrationBin, calibration_bins, expected_calibration_error
from ipt.prediction.predictor import Prediction
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.label_scores import LabelScores, score_labels

Scores = NDArray[np.float64]
"""Probabilities [M, C]."""


@dataclass(frozen=True)
class LabelReport:
    """How one label is answered."""

    label: str
    precision: float | None
    """None if the label is never answered."""
    recall: float | None
    """None if no measured row has the label."""
    f1: float | None
    """None if both are None."""
    support: int
    """Measured rows of the label."""
    predicted: int
    """Measured rows that are answered with the label."""


@dataclass(frozen=True)
class WrongAnswer:
    """A row that is answered wrongly; `row` is its number in the dataset."""

    row: int
    input: str
    expected: str
    predicted: str
    expected_score: float
    predicted_score: float


@dataclass(frozen=True)
class Report:
    """Everything that the answers to labeled rows say about a task."""

    rows: int
    """Measured rows: those whose label the task knows."""
    summary: LabelScores
    macro_f1: float
    """Mean F1 of the labels that occur in the rows or the answers."""
    weighted_f1: float
    """Mean F1 of the labels, weighted by support."""
    log_loss: float
    """Mean negative logarithm of the score of the right label, in nats."""
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    labels: tuple[LabelReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    """[C, C]: rows by their label, columns by the answer."""
    wrong: tuple[WrongAnswer, ...]
    """Highest score first: what the task is surest of and wrong about, the data may be wrong about."""
    unknown_labels: Mapping[str, int] = field(default_factory=dict)
    """Labels that the task does not know, and the number of their rows, which are not measured."""
    right: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_), repr=False, compare=False)
    """[M]: whether each measured row is answered right."""
    measured: tuple[int, ...] = field(default=(), repr=False)
    """[M]: the number of each measured row in the dataset."""


def report(examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
    """Report how a task answers labeled examples, from the predictions of their inputs.

    A label in another spelling than the task's counts as the task's label. Rows of labels that the task does not know
    are counted and not measured.

    >>> predictions = predictor.predict([(task.head, example.input) for example in test])
    >>> ipt.report(test, predictions).summary.accuracy

    Raises:
        DatasetError: there are no examples, they are not as many as the predictions, no label is known, or the
            predictions are not of a classification task.
    """
    check_answered(examples, predictions)
    scores = [prediction.scores for prediction in predictions]
    if any(row is None or row.keys() != (scores[0] or {}).keys() for row in scores):
        raise DatasetError(
            "a report needs predictions of one classification task, with the scores of all labels", param="predictions"
        )
    labels = list(scores[0] or {})
    array = np.array([[row[label] for label in labels] for row in scores if row is not None], dtype=np.float64)
    return report_scores(labels, examples, range(len(examples)), array)


def check_answered(examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
    """Check that there are examples, and a prediction for each.

    Raises:
        DatasetError: there are not.
    """
    if not examples or len(examples) != len(predictions):
        raise DatasetError(
            f"a report needs at least one example and a prediction for each, got {len(examples)} examples and "
            f"{len(predictions)} predictions",
            param="examples",
        )


def nothing_measured_error(unknown: Iterable[str], output: str) -> DatasetError:
    """Return the error of a report without measured rows; `unknown` are the labels that the task does not know."""
    named = ", ".join(repr(label[:40]) for label in list(unknown)[:5])
    return DatasetError(
        f"the task knows none of the labels of these examples ({named}): send examples of the task's own labels"
        if named
        else f"there are no examples: send at least one, with {output}",
        param="examples",
    )


def held_out_report(labels: Sequence[str], dataset: Sequence[Example], held_out: HeldOutLogits) -> Report:
    """Report how an adaptation answers the examples that it was measured on.

    Args:
        labels: of the task, C.
        dataset: the examples, then the validation examples, of the adaptation.
        held_out: of the same adaptation.
    """
    rows = held_out.rows.tolist()
    exponentials = np.exp(held_out.logits.astype(np.float64) - held_out.logits.max(axis=1, keepdims=True))
    scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    return report_scores(labels, [dataset[row] for row in rows], rows, scores)


def report_scores(labels: Sequence[str], examples: Sequence[Example], rows: Sequence[int], scores: Scores) -> Report:
    """Report how a task of `labels` [C] answers examples with `scores` [M, C]; `rows` are their numbers in the dataset.

    Raises:
        DatasetError: there is no example, or none has a label of the task.
    """
    number = {label: c for c, label in enumerate(labels)}
    outputs = [example.output for example in examples]
    of_output = {output: number[label] for output, label in matching_labels(outputs, labels).items()}
    unknown = Counter(output for output in outputs if output not in of_output)
    known = [place for place, output in enumerate(outputs) if output in of_output]
    if not known:
        raise nothing_measured_error(unknown, "its label")
    examples = [examples[place] for place in known]
    scores = scores[known]
    expected = np.array([of_output[outputs[place]] for place in known])
    predicted = scores.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (expected, predicted), 1)
    of_labels = [_label_report(label, confusion, c) for c, label in enumerate(labels)]
    right = predicted == expected
    bins = calibration_bins(scores.max(axis=1), right)
    measured = tuple(rows[place] for place in known)
    groups = near_duplicate_groups(examples)
    return Report(
        rows=len(known),
        summary=score_labels(predicted.tolist(), expected.tolist(), labels, groups),
        macro_f1=float(np.mean([each.f1 for each in of_labels if each.f1 is not None])),
        weighted_f1=sum((each.f1 or 0.0) * each.support for each in of_labels) / len(known),
        log_loss=_log_loss(scores, expected),
        calibration_error=expected_calibration_error(bins),
        calibration=bins,
        labels=tuple(of_labels),
        confusion=tuple(map(tuple, confusion.tolist())),
        wrong=_wrong_answers(labels, examples, measured, scores, expected),
        unknown_labels=dict(unknown),
        right=right,
        measured=measured,
    )


def _label_report(label: str, confusion: NDArray[np.int64], c: int) -> LabelReport:
    right, support, predicted = int(confusion[c, c]), int(confusion[c].sum()), int(confusion[:, c].sum())
    return LabelReport(
        label=label,
        precision=right / predicted if predicted else None,
        recall=right / support if support else None,
        f1=2 * right / (support + predicted) if support + predicted else None,
        support=support,
        predicted=predicted,
    )


def _log_loss(scores: Scores, expected: NDArray[np.int64]) -> float:
    of_expected = scores[np.arange(len(expected)), expected]
    return float(-np.log(of_expected.clip(np.finfo(np.float64).eps)).mean())


def _wrong_answers(
    labels: Sequence[str], examples: Sequence[Example], rows: Sequence[int], scores: Scores, expected: NDArray[np.int64]
) -> tuple[WrongAnswer, ...]:
    predicted = scores.argmax(axis=1)
    wrong = np.flatnonzero(predicted != expected)
    order = wrong[np.argsort(-scores.max(axis=1)[wrong], kind="stable")]
    return tuple(
        WrongAnswer(
            row=rows[place],
            input=examples[place].input,
            expected=labels[expected[place]],
            predicted=labels[predicted[place]],
            expected_score=float(scores[place, expected[place]]),
            predicted_score=float(scores[place, predicted[place]]),
        )
        for place in order.tolist()
    )
