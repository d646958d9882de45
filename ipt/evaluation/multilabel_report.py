"""The report of a multi-label task: which labels it gets right, label by label, and whether its scores hold.

Letters: M measured rows, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ipt.data.examples import Example
from ipt.data.labels import matching_labels
from ipt.data.near_duplicates import near_duplicate_groups
from ipt.errors import DatasetError
from ipt.evaluation.calibration import CalibrationBin, calibration_bins, expected_calibration_error
from ipt.evaluation.classification_report import LabelReport, Scores, check_answered, nothing_measured_error
from ipt.prediction.predictor import Prediction
from ipt.readout.thresholds import cross_fitted_thresholds
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.label_set_scores import LabelSets, LabelSetScores, score_label_sets


@dataclass(frozen=True)
class WrongLabels:
    """A row whose labels are not all right; `row` is its number in the dataset."""

    row: int
    input: str
    expected: tuple[str, ...]
    predicted: tuple[str, ...]
    scores: Mapping[str, float]
    """Of the labels that it lacks or has too many."""


@dataclass(frozen=True)
class MultiLabelReport:
    """Everything that the answers to rows with label sets say about a task."""

    rows: int
    """Measured rows: those with a label that the task knows, or without any label."""
    summary: LabelSetScores
    log_loss: float
    """Mean negative log-likelihood of a label or its absence, over all rows and labels, in nats."""
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    """Of all pairs of a row and a label: how often the row has the label."""
    labels: tuple[LabelReport, ...]
    wrong: tuple[WrongLabels, ...]
    """The clearest first: what the task is surest of and wrong about, the data may be wrong about."""
    unknown_labels: Mapping[str, int] = field(default_factory=dict)
    """Labels that the task does not know, and the number of their rows."""
    right: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_), repr=False, compare=False)
    """[M]: whether all labels of each measured row are right."""
    measured: tuple[int, ...] = field(default=(), repr=False)
    """[M]: the number of each measured row in the dataset."""


def multilabel_report(examples: Sequence[Example], predictions: Sequence[Prediction]) -> MultiLabelReport:
    """Report how a multi-label task answers examples, from the predictions of their inputs.

    Labels in another spelling than the task's count as the task's. Labels that the task does not know are counted and
    left out of their rows; rows with no other label are not measured.

    Raises:
        DatasetError: there are no examples, they are not as many as the predictions, no row can be measured, or the
            predictions are not of a multi-label task.
    """
    check_answered(examples, predictions)
    answers = [
        (each.labels, each.scores) for each in predictions if each.labels is not None and each.scores is not None
    ]
    labels = list(answers[0][1]) if answers else []
    if len(answers) < len(predictions) or any(list(scores) != labels for _, scores in answers):
        raise DatasetError(
            "a report needs predictions of one multi-label task, with the scores of all labels", param="predictions"
        )
    scores = np.array([[of_row[label] for label in labels] for _, of_row in answers], dtype=np.float64)
    answered = np.array([[label in set(of_row) for label in labels] for of_row, _ in answers])
    return report_label_sets(labels, examples, range(len(examples)), scores, answered)


def held_out_multilabel_report(
    labels: Sequence[str], dataset: Sequence[Example], held_out: HeldOutLogits
) -> MultiLabelReport:
    """Report how an adaptation answers the examples that it was measured on, with thresholds of other rows.

    Args:
        labels: of the task, C.
        dataset: the examples, then the validation examples, of the adaptation.
        held_out: of the same adaptation.
    """
    rows = held_out.rows.tolist()
    examples = [dataset[row] for row in rows]
    logits = held_out.logits.astype(np.float64)
    expected = _label_sets(labels, [example.labels for example in examples])
    groups = near_duplicate_groups(examples)
    thresholds = cross_fitted_thresholds(torch.from_numpy(logits), torch.from_numpy(expected), groups)
    scores = 1.0 / (1.0 + np.exp(-logits))
    return report_label_sets(labels, examples, rows, scores, logits >= thresholds.numpy())


def report_label_sets(
    labels: Sequence[str], examples: Sequence[Example], rows: Sequence[int], scores: Scores, answered: LabelSets
) -> MultiLabelReport:
    """Report answers [M, C] to examples with `scores` [M, C]; `rows` are their numbers in the dataset.

    Raises:
        DatasetError: there is no example, or none has a label of the task or no label.
    """
    matching = matching_labels([label for example in examples for label in example.labels], labels)
    unknown = Counter(label for example in examples for label in example.labels if label not in matching)
    sets = [[matching[label] for label in example.labels if label in matching] for example in examples]
    known = [place for place, example in enumerate(examples) if sets[place] or not example.labels]
    if not known:
        raise nothing_measured_error(unknown, "its labels")
    examples = [examples[place] for place in known]
    scores, answered = scores[known], answered[known]
    expected = _label_sets(labels, [sets[place] for place in known])
    bins = calibration_bins(scores.ravel(), expected.ravel())
    measured = tuple(rows[place] for place in known)
    certain = np.where(expected, scores, 1.0 - scores).clip(np.finfo(np.float64).eps)
    return MultiLabelReport(
        rows=len(known),
        summary=score_label_sets(answered, expected, labels, near_duplicate_groups(examples)),
        log_loss=float(-np.log(certain).mean()),
        calibration_error=expected_calibration_error(bins),
        calibration=bins,
        labels=tuple(_label_report(label, answered[:, c], expected[:, c]) for c, label in enumerate(labels)),
        wrong=_wrong(labels, examples, measured, scores, answered, expected),
        unknown_labels=dict(unknown),
        right=(answered == expected).all(axis=1),
        measured=measured,
    )


def _label_sets(labels: Sequence[str], sets: Sequence[Sequence[str]]) -> LabelSets:
    number = {label: c for c, label in enumerate(labels)}
    array = np.zeros((len(sets), len(labels)), dtype=np.bool_)
    for row, of_row in enumerate(sets):
        array[row, [number[label] for label in of_row]] = True
    return array


def _label_report(label: str, answered: NDArray[np.bool_], expected: NDArray[np.bool_]) -> LabelReport:
    right, support, predicted = int((answered & expected).sum()), int(expected.sum()), int(answered.sum())
    return LabelReport(
        label=label,
        precision=right / predicted if predicted else None,
        recall=right / support if support else None,
        f1=2 * right / (support + predicted) if support + predicted else None,
        support=support,
        predicted=predicted,
    )


def _wrong(
    labels: Sequence[str],
    examples: Sequence[Example],
    rows: Sequence[int],
    scores: Scores,
    answered: LabelSets,
    expected: LabelSets,
) -> tuple[WrongLabels, ...]:
    differs = answered != expected
    # How sure the task is of the wrong answer.
    sure = np.where(differs, np.where(answered, scores, 1.0 - scores), 0.0).max(axis=1, initial=0.0)
    wrong = np.flatnonzero(differs.any(axis=1))

    def named(flags: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(label for label, flag in zip(labels, flags.tolist(), strict=True) if flag)

    return tuple(
        WrongLabels(
            row=rows[place],
            input=examples[place].input,
            expected=named(expected[place]),
            predicted=named(answered[place]),
            scores={label: float(scores[place, labels.index(label)]) for label in named(differs[place])},
        )
        for place in wrong[np.argsort(-sure[wrong], kind="stable")].tolist()
    )
