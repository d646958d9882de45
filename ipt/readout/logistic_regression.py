"""Logistic regression, multinomial or of each label: many fits at once, by accelerated steps.

A step uses Böhning's upper bound on the Hessian: half of the examples' second moments, plus the penalty; a quarter of
them for a label by itself. The bound holds for all weights, so a step needs no line search and its matrix is factorized
once (Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44, 1992). The momentum restarts
when a step goes against the gradient (O'Donoghue & Candès, "Adaptive Restart for Accelerated Gradient Schemes", arXiv
1204.3982).

Letters: K fits, N examples, F features, C classes or labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ipt.readout.targets import are_label_sets, indicators, probabilities

MAX_ITERATIONS = 500
TOLERANCE = 1e-5
"""Largest entry of the gradient (a sum over the examples) at which a fit has converged."""


def logistic_regressions(
    features: Tensor, classes: Tensor, num_classes: int, penalty: float, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weights [K, C, F] and biases [K, C] that minimize summed cross-entropy plus the penalty.

    With sets of labels, each label is a classification of its own into the label and its absence. It has half of the
    penalty, as the difference of the two logits of a multinomial regression on these two classes has.

    Args:
        features: [K, N, F], or [N, F] for all fits.
        classes: [N], the class of each example, or [N, C], its labels.
        num_classes: C.
        penalty: half of it multiplies the sum of squared weights; biases have no penalty.
        counted: [K, N], the examples that each fit uses; all if None.
    """
    if features.dim() == 2:
        features = features.expand(1 if counted is None else len(counted), -1, -1)
    ones = features.new_ones(*features.shape[:2], 1)
    rows = torch.cat([features, ones], dim=2)
    targets = indicators(classes, num_classes).to(features)
    labels_alone = are_label_sets(classes)
    counts = ones if counted is None else counted.to(features)[:, :, None]
    penalties = features.new_full((rows.shape[2], 1), 0.5 * penalty if labels_alone else penalty)
    penalties[-1] = 0.0
    curvature = 0.25 if labels_alone else 0.5
    bound = curvature * (rows * counts).mT @ rows + torch.diag(penalties[:, 0])
    factor, _ = torch.linalg.cholesky_ex(bound)  # NaN affects its own fit only
    inverse = torch.cholesky_inverse(factor)
    solution = features.new_zeros(len(rows), rows.shape[2], num_classes)
    ahead, momentum = solution, features.new_ones(len(rows), 1, num_classes if labels_alone else 1)
    for _ in range(MAX_ITERATIONS):
        errors = (probabilities(rows @ ahead, classes) - targets) * counts
        gradient = rows.mT @ errors + penalties * ahead
        if float(gradient.abs().max()) <= TOLERANCE:
            solution = ahead
            break
        moved = ahead - inverse @ gradient
        restarts = (gradient * (moved - solution)).sum(dim=1 if labels_alone else (1, 2), keepdim=True) > 0
        momentum = momentum.masked_fill(restarts, 1.0)
        next_momentum = 0.5 * (1.0 + (1.0 + 4.0 * momentum.square()).sqrt())
        ahead = moved + ((momentum - 1.0) / next_momentum) * (moved - solution)
        solution, momentum = moved, next_momentum
    return solution[:, :-1].mT, solution[:, -1]
