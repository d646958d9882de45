"""Logistic regression, multinomial or of each label: one linear classifier, fitted to features on the CPU.

Letters: B rows, N examples, C classes or labels, F features, R rank of the examples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ipt.readout.logistic_regression import logistic_regressions
from ipt.readout.targets import are_label_sets, log_loss

PENALTY = 1.0
"""Half of the sum of squared weights counts as much as the loss of this many examples."""
LARGE_FIT = 4096
"""Examples times classes above which L-BFGS fits in single precision: four times as fast as the exact fit in double
precision, with an error below that of eight-bit weights (docs/decisions/0037)."""
MAX_ITERATIONS = 200


class LinearClassifier(NamedTuple):
    """A linear classifier in double precision: `weight` [C, F] and `bias` [C]."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, F]."""
        return features.to(self.weight) @ self.weight.mT + self.bias


def fit_linear(features: Tensor, classes: Tensor, num_classes: int) -> LinearClassifier:
    """Fit a logistic regression to features [N, F] of classes [N] or label sets [N, C]: the minimum of the loss."""
    if is_large(len(features), num_classes):
        basis, coordinates = span_coordinates(features.float())
        solution, bias = _fit_by_lbfgs(coordinates, classes, num_classes)
    else:
        basis, coordinates = span_coordinates(features.double())
        (solution,), (bias,) = logistic_regressions(coordinates, classes, num_classes, PENALTY)
    return LinearClassifier((solution @ basis.mT).double(), bias.double())


def span_coordinates(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return a basis [F, R] of the span of features [N, F], and their coordinates in it [N, R].

    The optimal weights lie in that span, which is much smaller than F for a few-shot task.
    """
    basis, coordinates = torch.linalg.qr(features.mT)
    return basis, coordinates.mT.contiguous()


def is_large(num_examples: int, num_classes: int) -> bool:
    """Return whether a fit of this size trades precision for speed."""
    return num_examples * num_classes > LARGE_FIT


def _fit_by_lbfgs(features: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Minimize the loss of `logistic_regressions`, whose bound on the curvature is loose for many classes."""
    weight = features.new_zeros(num_classes, features.shape[1]).requires_grad_(True)
    bias = features.new_zeros(num_classes).requires_grad_(True)
    penalty = 0.5 * PENALTY if are_label_sets(classes) else PENALTY
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe"
    )

    def objective() -> float:
        optimizer.zero_grad()
        loss = log_loss(features @ weight.mT + bias, classes)
        loss = loss + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(objective)
    return weight.detach(), bias.detach()
