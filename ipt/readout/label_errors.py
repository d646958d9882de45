"""Examples whose labels are probably wrong: what the other examples say of them, and near-duplicates across labels.

Letters: M measured examples, C classes or labels, N examples, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAR_DUPLICATE_COSINE = 0.95
"""Cosine of two embeddings, without what all examples have in common, from which they are near-duplicates."""
_MOST_PAIRS = 1000


@dataclass(frozen=True)
class Suspect:
    """An example that another label fits better, by its number among the measured ones."""

    row: int
    likely: int
    """The class that fits better."""
    likely_probability: float
    given_probability: float


@dataclass(frozen=True)
class SuspectLabel:
    """A label that an example of a multi-label task lacks, or has too many; `row` is its number among the measured."""

    row: int
    label: int
    belongs: bool
    """Whether the example should have the label."""
    probability: float
    """Of what should be."""


def suspect_label_sets(logits: NDArray[np.float32], label_sets: NDArray[np.bool_]) -> list[SuspectLabel]:
    """Return the labels that examples confidently lack or have too many, the clearest first.

    Each label is one classification into the label and its absence for `suspect_labels`.

    Args:
        logits: [M, C], by classifiers that were not fitted to the example.
        label_sets: [M, C], the labels that the examples have.
    """
    suspects = []
    for label in range(label_sets.shape[1]):
        of_label = logits[:, label]
        both = np.stack([np.zeros_like(of_label), of_label], axis=1)
        suspects += [
            SuspectLabel(each.row, label, each.likely == 1, each.likely_probability)
            for each in suspect_labels(both, label_sets[:, label].astype(np.int64))
        ]
    return sorted(suspects, key=lambda suspect: -suspect.probability)


def suspect_labels(logits: NDArray[np.float32], classes: Sequence[int] | NDArray[np.int64]) -> list[Suspect]:
    """Return the examples that are confidently of another class than theirs, the clearest first.

    This is the confident joint of confident learning (Northcutt et al., 2021, section 3.1): an example is confidently
    of a class if the class gets at least the probability that the examples labelled with it get on average.

    Args:
        logits: [M, C], by classifiers that were not fitted to the example.
        classes: [M], those that the examples are labelled with.
    """
    if not len(classes):
        return []
    given = np.asarray(classes)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    scores /= scores.sum(axis=1, keepdims=True)
    own = scores[np.arange(len(given)), given]
    counts = np.bincount(given, minlength=scores.shape[1])
    sums = np.bincount(given, weights=own, minlength=scores.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(scores >= thresholds, scores, -1.0)
    likely = confident.argmax(axis=1)
    suspects = [
        Suspect(row, int(likely[row]), float(scores[row, likely[row]]), float(own[row]))
        for row in np.flatnonzero((confident.max(axis=1) > 0) & (likely != given)).tolist()
    ]
    return sorted(suspects, key=lambda suspect: suspect.given_probability - suspect.likely_probability)


def near_duplicates_across_labels(embeddings: NDArray[np.float32], classes: Sequence[int]) -> list[tuple[int, int]]:
    """Return pairs of examples with different labels that hardly differ, the closest first, at most 1,000.

    The mean of the embeddings [N, H] is taken away before they are compared, because the embeddings of many encoders
    have a large part in common.
    """
    given = np.asarray(classes)
    centred = embeddings - embeddings.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = centred / np.maximum(norms, 1e-12)
    cosines = np.triu(directions @ directions.T, k=1)
    cosines[given[:, None] == given[None, :]] = 0.0
    first, second = np.nonzero(cosines >= NEAR_DUPLICATE_COSINE)
    order = np.argsort(-cosines[first, second], kind="stable")[:_MOST_PAIRS]
    return [(int(first[pair]), int(second[pair])) for pair in order]
