"""Draw few-shot examples from a task's rows, by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ipt.data.examples import Example, TaskKind, infer_kind, labels_of, rarest_label

TEXTS_PER_LABEL = 2
"""A text-to-text task gets this many times the rows that a classification task gets of each label, as in CrossFit."""


def few_shot(examples: Sequence[Example], per_label: int, seed: int) -> list[Example]:
    """Draw `per_label` examples of every label, or `TEXTS_PER_LABEL * per_label` examples of a text-to-text task."""
    if infer_kind(examples) == "classification":
        return sample_per_label(examples, per_label, seed)
    size = TEXTS_PER_LABEL * per_label
    return [examples[row] for row in np.random.default_rng([seed, size]).permutation(len(examples))[:size]]


def rows_lacking(examples: Sequence[Example], kind: TaskKind, per_label: int) -> tuple[int, int, str] | None:
    """Return how many rows there are, how many `few_shot` needs, and a name for them; None if there are enough."""
    available, needed, of_label = len(examples), TEXTS_PER_LABEL * per_label, ""
    if kind == "classification":
        label, available = rarest_label(examples)
        needed, of_label = per_label, f" of {label[:50]!r}"
    return (available, needed, f"training rows{of_label}") if available < needed else None


def sample_per_label(examples: Sequence[Example], per_label: int, seed: int) -> list[Example]:
    """Draw `per_label` examples of every label (all if it has fewer), in their original order."""
    return [examples[index] for index in rows_per_label(examples, per_label, seed)]


def rows_per_label(examples: Sequence[Example], per_label: int, seed: int) -> list[int]:
    """Return the indices of the examples that `sample_per_label` draws."""
    rng = np.random.default_rng([seed, per_label])
    by_label: dict[str, list[int]] = {label: [] for label in labels_of(examples)}
    for index, example in enumerate(examples):
        by_label[example.output].append(index)
    chosen = [index for rows in by_label.values() for index in rng.permutation(rows)[:per_label].tolist()]
    return sorted(chosen)


def balanced_sample(examples: Sequence[Example], limit: int, rng: np.random.Generator) -> list[int]:
    """Return the sorted indices of at most `limit` random examples, drawn round robin from the labels."""
    if len(examples) <= limit:
        return list(range(len(examples)))
    drawn_of_label: dict[str, int] = defaultdict(int)
    ranked = []
    for index in rng.permutation(len(examples)).tolist():
        label = examples[index].output
        ranked.append((drawn_of_label[label], index))
        drawn_of_label[label] += 1
    return sorted(index for _, index in sorted(ranked)[:limit])
