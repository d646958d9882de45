"""Where tuning may start: the zero vector, and the mean vector of each large family of the tasks of the fit.

A task of the same kind as one of the families starts near its solution; every other task starts from the zero vector,
which the fit trained to suit the average task. Tuning picks among them by their loss before the first step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_FAMILIES = 11


def initial_vectors(vectors: Tensor, families: Sequence[str]) -> Tensor:
    """[K, D]: zero first, then the means of the most frequent families, at most eleven.

    Args:
        vectors: [N, D], of the tasks of the fit.
        families: of each task.
    """
    means = [
        vectors[[i for i, of in enumerate(families) if of == family]].mean(dim=0)
        for family, _ in Counter(families).most_common(MAX_FAMILIES)
    ]
    return torch.stack([torch.zeros_like(vectors[0]), *means]).detach()
