"""Examples of a task whose labels are probably wrong: a part of the report of an adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipt.data.examples import Example, TaskKind
from ipt.readout.label_errors import suspect_label_sets, suspect_labels
from ipt.tuning.held_out import HeldOutLogits


@dataclass(frozen=True)
class DoubtfulLabel:
    """An example that another label fits better; `row` is its number in the dataset."""

    row: int
    likely_label: str
    """The label that fits better; of a multi-label task, a label that the example lacks or has too many."""
    belongs: bool
    """Whether the example should have that label."""
    likely_probability: float
    """The probability that it should be so."""
    given_probability: float
    """The probability of what the example has."""


def doubtful_labels(
    labels: Sequence[str], dataset: Sequence[Example], held_out: HeldOutLogits, kind: TaskKind
) -> list[DoubtfulLabel]:
    """Return the measured examples whose labels are probably wrong, the clearest first.

    Args:
        labels: of the task.
        dataset: the examples, then the validation examples, of the adaptation.
        held_out: of the same adaptation.
        kind: "classification" or "multilabel".
    """
    rows = held_out.rows.tolist()
    if kind == "multilabel":
        sets = np.array([[label in dataset[row].labels for label in labels] for row in rows]).reshape(-1, len(labels))
        return [
            DoubtfulLabel(
                rows[each.row],
                labels[each.label],
                each.belongs,
                each.probability,
                given_probability=1 - each.probability,
            )
            for each in suspect_label_sets(held_out.logits, sets)
        ]
    class_of = {label: number for number, label in enumerate(labels)}
    suspects = suspect_labels(held_out.logits, [class_of[dataset[row].output] for row in rows])
    return [
        DoubtfulLabel(rows[each.row], labels[each.likely], True, each.likely_probability, each.given_probability)
        for each in suspects
    ]
