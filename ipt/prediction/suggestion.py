"""Which unlabelled texts to label next: texts that the task is uncertain about and that differ from each other.

Letters: N unlabelled texts, C classes, H hidden size, K suggestions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ipt.errors import IptError

_ROUNDS = 8
_MIN_WEIGHT = 1e-3
"""Weight of a text that the task is certain about, so that any number of texts can be suggested."""


def suggest(scores: NDArray[np.float64], embeddings: NDArray[np.float32], count: int, *, seed: int = 0) -> list[int]:
    """Return the numbers [K] of the texts that are most useful to label, the most useful first.

    Texts are clustered by weighted k-means (Zhdanov, 2019): a text weighs as much as it is uncertain, which is 1 less
    the margin between its two most probable labels. The text next to each centre is suggested. Uncertain texts alone
    would be many of one kind; clusters alone would be of texts that the task knows.

    Args:
        scores: [N, C], the probability of each label.
        embeddings: [N, H], of any length.
        count: most suggestions.
        seed: of the first centres.

    Raises:
        IptError: the arrays are not of the same texts, have fewer than 2 classes, or `count` is not positive.
    """
    scores, embeddings = np.asarray(scores, dtype=np.float64), np.asarray(embeddings, dtype=np.float32)
    if scores.ndim != 2 or scores.shape[1] < 2 or embeddings.ndim != 2 or len(scores) != len(embeddings):
        raise IptError(
            f"scores must have shape [N, C] with C >= 2, and embeddings [N, H], got {list(scores.shape)} and "
            f"{list(embeddings.shape)}",
            param="scores",
        )
    if count < 1:
        raise IptError(f"count must be at least 1, got {count}", param="count")
    weights = uncertainties(scores) + _MIN_WEIGHT
    if len(scores) <= count:
        return [int(number) for number in np.argsort(-weights, kind="stable")]
    directions = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    centres = _first_centres(directions, weights, count, np.random.default_rng(seed))
    for _ in range(_ROUNDS):
        clusters = (directions @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, clusters, weights[:, None].astype(np.float32) * directions)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
    similarities = directions @ centres.T
    cluster_weights = np.bincount(similarities.argmax(axis=1), weights=weights, minlength=count)
    chosen: list[int] = []
    for cluster in np.argsort(-cluster_weights, kind="stable"):
        similarity = similarities[:, cluster]
        similarity[chosen] = -np.inf
        chosen.append(int(similarity.argmax()))
    return chosen


def uncertainties(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 less the margin between the two most probable labels, for each text [N]."""
    highest = np.partition(scores, -2, axis=1)[:, -2:]
    uncertainty: NDArray[np.float64] = 1 - np.abs(highest[:, 1] - highest[:, 0])
    return uncertainty


def _first_centres(
    directions: NDArray[np.float32], weights: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw centres by k-means++: with a probability of weight times squared distance to the nearest earlier one."""
    numbers = [int(rng.choice(len(weights), p=weights / weights.sum()))]
    distances = np.full(len(weights), np.inf)
    while len(numbers) < count:
        distances = np.minimum(distances, np.maximum(2 - 2 * directions @ directions[numbers[-1]], 0))
        chances = weights * distances
        chances[numbers] = 0
        if chances.sum() == 0:  # all other texts equal a centre
            chances = weights.copy()
            chances[numbers] = 0
        numbers.append(int(rng.choice(len(weights), p=chances / chances.sum())))
    return directions[numbers].copy()


def most_doubtful(scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the label [N] of each text that a multi-label task is least sure of, and the scores of its sides [N, 2].

    `suggest` takes the two sides, of the label and of its absence, as the scores of a text. `scores` are [N, C].
    """
    labels = np.abs(scores - 0.5).argmin(axis=1)
    of_label = scores[np.arange(len(scores)), labels]
    return labels, np.stack([of_label, 1.0 - of_label], axis=1)
