"""Multinomial logistic regression by accelerated steps of a fixed bound on its curvature, many fits at once.

A step solves with Böhning's bound, half of the examples' second moments and the penalty, which no set of weights
exceeds, so it needs no line search and its matrix is factorized once (Böhning, "Multinomial logistic regression
algorithm", Ann. Inst. Statist. Math. 44, 1992). The steps are accelerated, and begin anew where they turn against the
gradient (O'Donoghue & Candès, "Adaptive Restart for Accelerated Gradient Schemes", arXiv 1204.3982).

Letters: K fits, N examples, F features, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ITERATIONS = 500
TOLERANCE = 1e-5
"""Largest entry of the gradient, which sums over the examples, at which a fit is done."""


def logistic_regressions(
    features: Tensor, classes: Tensor, num_classes: int, penalty: float, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights [K, C, F] and biases [K, C] of least summed cross-entropy plus half the penalty on squared weights.

    Args:
        features: [K, N, F] or, of all fits, [N, F].
        classes: [N], the class of each example.
        num_classes: C.
        penalty: on weights; biases are free.
        counted: [K, N], which examples each fit is to; all of them without it.
    """
    if features.dim() == 2:
        features = features.expand(1 if counted is None else len(counted), -1, -1)
    ones = features.new_ones(*features.shape[:2], 1)
    rows = torch.cat([features, ones], dim=2)
    wanted = F.one_hot(classes, num_classes).to(features)
    counts = ones if counted is None else counted.to(features)[:, :, None]
    penalties = features.new_full((rows.shape[2], 1), penalty)
    penalties[-1] = 0.0
    bound = 0.5 * (rows * counts).mT @ rows + torch.diag(penalties[:, 0])
    factor, _ = torch.linalg.cholesky_ex(bound)  # what is no number gives none, and leaves the other fits alone
    inverse = torch.cholesky_inverse(factor)
    at = features.new_zeros(len(rows), rows.shape[2], num_classes)
    ahead, pace = at, features.new_ones(len(rows), 1, 1)
    for _ in range(MAX_ITERATIONS):
        errors = ((rows @ ahead).softmax(dim=2) - wanted) * counts
        gradient = rows.mT @ errors + penalties * ahead
        if float(gradient.abs().max()) <= TOLERANCE:
            at = ahead
            break
        moved = ahead - inverse @ gradient
        turned = (gradient * (moved - at)).sum(dim=(1, 2), keepdim=True) > 0
        pace = pace.masked_fill(turned, 1.0)
        next_pace = 0.5 * (1.0 + (1.0 + 4.0 * pace.square()).sqrt())
        ahead = moved + ((pace - 1.0) / next_pace) * (moved - at)
        at, pace = moved, next_pace
    return at[:, :-1].mT, at[:, -1]
