"""The geometry of task vectors: their first two principal components, and their cosine similarities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def principal_components(vectors: Matrix) -> tuple[Matrix, Matrix]:
    """Project vectors [N, D] on two principal components [N, 2]; return their shares of the variance [2] too."""
    centred = vectors - vectors.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(2, len(lengths))
    projected = np.zeros((len(vectors), 2))
    projected[:, :count] = left[:, :count] * lengths[:count]
    shares = np.zeros(2)
    total = float(np.square(lengths).sum())
    if total > 0.0:
        shares[:count] = np.square(lengths[:count]) / total
    return projected, shares


def cosine_similarities(vectors: Matrix) -> Matrix:
    """Return the cosines [N, N] of vectors [N, D]; the cosines of a zero vector are 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0.0)
    return np.asarray(directions @ directions.T)


def by_family(families: Sequence[str]) -> list[int]:
    """Return the indices of tasks grouped by family, the largest family first."""
    sizes = {family: families.count(family) for family in families}
    return sorted(range(len(families)), key=lambda task: (-sizes[families[task]], families[task], task))


def within_and_between(cosines: Matrix, families: Sequence[str]) -> tuple[float | None, float | None]:
    """Return the mean cosine of two tasks of one family, and of two families; None if there are no such pairs."""
    same = np.array([[family == other for other in families] for family in families])
    pairs = ~np.eye(len(families), dtype=bool)
    within, between = cosines[same & pairs], cosines[~same]
    return (float(within.mean()) if within.size else None, float(between.mean()) if between.size else None)
