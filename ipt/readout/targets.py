"""What classifiers are fitted to: one class for each row, or any number of labels.

Classes are numbers [N]. Sets of labels are rows [N, C] of booleans, of which each column is a classification of its own
into a label and its absence. Functions that take both call them `classes`, as `torch.nn.functional.cross_entropy` does.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def are_label_sets(classes: Tensor) -> bool:
    """Return whether rows have any number of labels [N, C], instead of one class each [N]."""
    return classes.dim() == 2


def indicators(classes: Tensor, num_classes: int) -> Tensor:
    """Return [N, C]: 1 for the classes or labels of each row."""
    return classes.double() if are_label_sets(classes) else F.one_hot(classes, num_classes).double()


def probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the probability [..., N, C] of each class, or of each label by itself, for rows with such `classes`."""
    return logits.sigmoid() if are_label_sets(classes) else logits.softmax(dim=-1)


def log_loss(logits: Tensor, classes: Tensor, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """Return the negative log-likelihood of rows with logits [N, C], in nats; its mean is over rows."""
    if not are_label_sets(classes):
        return F.cross_entropy(logits, classes, reduction=reduction)
    total = F.binary_cross_entropy_with_logits(logits, classes.to(logits), reduction="sum")
    return total if reduction == "sum" else total / len(classes)


def with_all_labels(classes: Tensor, num_classes: int) -> Tensor:
    """Append one row of each label."""
    if are_label_sets(classes):
        return torch.cat([classes, torch.eye(num_classes, dtype=torch.bool)])
    return torch.cat([classes, torch.arange(num_classes)])
