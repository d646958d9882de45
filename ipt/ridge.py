"""Kernel ridge regression onto class indicators, with exact leave-one-out predictions, in closed form.

An encoder's few-shot classifier. With N examples of C classes, kernel K = Z Zᵀ + 1 (the one is a bias), G = K + λI
and centred targets Y, the coefficients are α = G⁻¹Y, and the prediction for example i of a classifier that never saw
example i is yᵢ − αᵢ / (G⁻¹)ᵢᵢ. So every row of a batch can be a query against all the others in one solve, and the
whole is differentiable with respect to the embeddings: the loss that tunes a vector is the error of the readout that
will answer. Source of the identity: Rasmussen & Williams, "Gaussian Processes for Machine Learning", section 5.4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def class_targets(classes: Tensor, num_classes: int) -> Tensor:
    """Class indices [N] to centred indicators [N, C]: 1 − 1/C for the class, −1/C for the others."""
    return F.one_hot(classes, num_classes).float() - 1.0 / num_classes


def gram(embeddings: Tensor) -> Tensor:
    """The kernel with bias of embeddings [N, F]: [N, N]."""
    return embeddings @ embeddings.mT + 1.0


def leave_one_out(kernel: Tensor, targets: Tensor, ridge: Tensor | float) -> Tensor:
    """For each example the scores of the classifier fitted on all the other examples: [N, C].

    Args:
        kernel: [N, N], positive semi-definite.
        targets: [N, C].
        ridge: λ > 0.
    """
    identity = torch.eye(kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
    inverse = torch.linalg.inv(kernel + ridge * identity)
    return targets - (inverse @ targets) / inverse.diagonal()[:, None]


def ridge_weights(embeddings: Tensor, targets: Tensor, ridge: float, sample_weights: Tensor | None = None) -> Tensor:
    """The weights [C, F + 1] (bias last) of the ridge classifier of embeddings [N, F], targets [N, C].

    `sample_weights` [N] count each example's squared error that many times.
    """
    features = torch.cat([embeddings, torch.ones_like(embeddings[:, :1])], dim=1).double()
    weighted = features if sample_weights is None else features * sample_weights.double()[:, None]
    identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    solution = torch.linalg.solve(weighted.mT @ features + ridge * identity, weighted.mT @ targets.double())
    return solution.mT.to(embeddings.dtype)
