"""Where the vectors of tasks lie: on a plane, and how alike they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def plane(vectors: Matrix) -> tuple[Matrix, Matrix]:
    """Principal components: vectors [N, D] to their places [N, 2], and the two's shares of all variance [2]."""
    centred = vectors - vectors.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(2, len(lengths))
    places = np.zeros((len(vectors), 2))
    places[:, :count] = left[:, :count] * lengths[:count]
    shares = np.zeros(2)
    total = float(np.square(lengths).sum())
    if total > 0.0:
        shares[:count] = np.square(lengths[:count]) / total
    return places, shares


def similarities(vectors: Matrix) -> Matrix:
    """Cosines [N, N] of vectors [N, D]; of a zero vector 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0.0)
    return np.asarray(directions @ directions.T)


def by_family(families: Sequence[str]) -> list[int]:
    """Indices of tasks in an order that keeps families together, the largest first."""
    sizes = {family: families.count(family) for family in families}
    return sorted(range(len(families)), key=lambda task: (-sizes[families[task]], families[task], task))


def within_and_between(similar: Matrix, families: Sequence[str]) -> tuple[float | None, float | None]:
    """Mean cosine of two tasks of one family, and of two families; None where there are no two such tasks."""
    same = np.array([[one == other for other in families] for one in families])
    pairs = ~np.eye(len(families), dtype=bool)
    within, between = similar[same & pairs], similar[~same]
    return (float(within.mean()) if within.size else None, float(between.mean()) if between.size else None)
