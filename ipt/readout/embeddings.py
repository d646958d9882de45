"""Embeddings of texts with and without a task's prompt, and the features that classifiers are fitted to.

Letters: B rows, N examples, C classes, H hidden size, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ipt.readout.targets import with_all_labels

PROMPTED_SHARE = 0.5
"""Share of a feature vector's squared length that the prompted embedding contributes; the frozen one has the rest."""


@dataclass(frozen=True)
class Embeddings:
    """Unit-length embeddings of the same rows behind a task's prompt [B, H] and without a prompt [B, H]."""

    prompted: Tensor
    frozen: Tensor

    def __len__(self) -> int:
        return len(self.prompted)

    def rows(self, selection: slice) -> Embeddings:
        """Return the embeddings of some rows."""
        return Embeddings(self.prompted[selection], self.frozen[selection])

    def features(self) -> Tensor:
        """Return both embeddings side by side [B, 2H], rescaled to unit length."""
        return torch.cat(
            [self.prompted * math.sqrt(PROMPTED_SHARE), self.frozen * math.sqrt(1.0 - PROMPTED_SHARE)], dim=-1
        )


def with_names(features: Tensor, classes: Tensor, names: Embeddings | None) -> tuple[Tensor, Tensor]:
    """Append the label names, one more example of each label, to features [N, F] and their classes or label sets."""
    if names is None:
        return features, classes
    return torch.cat([features, names.features()]), with_all_labels(classes, len(names))
