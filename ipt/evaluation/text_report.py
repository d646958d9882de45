"""The report of a text-to-text task: how many texts are right, how near the others are, and the wrong ones.

Letters: M rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ipt.data.examples import Example
from ipt.data.near_duplicates import near_duplicate_groups
from ipt.errors import DatasetError
from ipt.evaluation.classification_report import check_answered
from ipt.prediction.predictor import Prediction
from ipt.tuning.held_out_texts import HeldOutTexts
from ipt.tuning.label_scores import wilson_interval
from ipt.tuning.text_scores import exactly_matches, mean_scores


@dataclass(frozen=True)
class WrongText:
    """A row whose text is not the expected one; `row` is its number."""

    row: int
    input: str
    expected: str
    predicted: str
    confidence: float | None


@dataclass(frozen=True)
class TextReport:
    """What the texts that a task writes for examples say about it."""

    rows: int
    exact_match: float
    interval: tuple[float, float]
    """The 95 % interval of the exact match on different inputs (Wilson, 1927)."""
    token_f1: float
    """Mean F1 of the words that a text and the expected one have in common."""
    rouge_l: float
    """Mean F1 of their longest common subsequence of words."""
    wrong: tuple[WrongText, ...]
    """The most confident first."""
    right: NDArray[np.bool_] = field(repr=False, compare=False)
    """[M]: whether each text is exactly right."""
    measured: tuple[int, ...] = field(repr=False)
    """[M]: the number of each row."""


def text_report(examples: Sequence[Example], predictions: Sequence[Prediction]) -> TextReport:
    """Report how a text-to-text task answers examples, from the predictions of their inputs.

    Raises:
        DatasetError: there are no examples, they are not as many as the predictions, or a prediction has no text.
    """
    check_answered(examples, predictions)
    texts = [prediction.text for prediction in predictions if prediction.text is not None]
    if len(texts) < len(predictions):
        raise DatasetError("a report needs predictions of a text-to-text task, with their texts", param="predictions")
    return _report(range(len(examples)), examples, texts, [prediction.confidence for prediction in predictions])


def held_out_text_report(dataset: Sequence[Example], held_out: HeldOutTexts) -> TextReport:
    """Report how an adaptation answers the examples that it was measured on.

    Args:
        dataset: the examples, then the validation examples, of the adaptation.
        held_out: of the same adaptation.
    """
    rows = held_out.rows.tolist()
    return _report(rows, [dataset[row] for row in rows], held_out.texts, held_out.confidences.tolist())


def _report(
    rows: Sequence[int], examples: Sequence[Example], texts: Sequence[str], confidences: Sequence[float | None]
) -> TextReport:
    """Report texts [M] that are written for examples [M], whose numbers are `rows` [M]."""
    right = np.array([exactly_matches(text, example.output) for text, example in zip(texts, examples, strict=True)])
    wrong = [
        WrongText(rows[i], examples[i].input, examples[i].output, texts[i], confidences[i])
        for i in np.flatnonzero(~right).tolist()
    ]
    share = float(right.mean())
    means = mean_scores(texts, [example.output for example in examples])
    return TextReport(
        rows=len(examples),
        exact_match=share,
        interval=wilson_interval(share, len(set(near_duplicate_groups(examples)))),
        token_f1=means["token_f1"],
        rouge_l=means["rouge_l"],
        wrong=tuple(sorted(wrong, key=lambda each: -(each.confidence or 0.0))),
        right=right,
        measured=tuple(rows),
    )
