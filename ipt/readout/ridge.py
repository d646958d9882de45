"""Ridge regression onto class indicators with exact leave-one-out predictions: the loss that tunes task vectors.

With kernel K = Z Zᵀ + 1 (the one is a bias), G = K + λI and centred targets Y the coefficients are α = G⁻¹Y, and the
prediction for example i of a classifier fitted without example i is yᵢ − αᵢ / (G⁻¹)ᵢᵢ. One solve makes every row of a
batch a query against all other rows, and it is differentiable with respect to the embeddings. Source of the identity:
Rasmussen & Williams, "Gaussian Processes for Machine Learning", section 5.4.2.

Letters: N examples, C classes, F features. Every tensor may have a leading dimension of independent problems.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def class_targets(classes: Tensor, num_classes: int) -> Tensor:
    """Return centred indicators [N, C] of class indices [N]: 1 − 1/C for the class, −1/C for all others."""
    return F.one_hot(classes, num_classes).float() - 1.0 / num_classes


def gram(embeddings: Tensor) -> Tensor:
    """Return the kernel with bias [N, N] of embeddings [N, F]."""
    return embeddings @ embeddings.mT + 1.0


def leave_one_out(kernel: Tensor, targets: Tensor, ridge: Tensor | float) -> Tensor:
    """Return each example's scores [N, C] by the classifier fitted to all other examples. Differentiable.

    Args:
        kernel: [N, N], positive semi-definite, so that kernel + λI is invertible.
        targets: [N, C].
        ridge: λ > 0.
    """
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    inverse, _ = torch.linalg.inv_ex(kernel + ridge * identity)  # `inv` waits for the device to check for errors
    scores: Tensor = targets - (inverse @ targets) / inverse.diagonal(dim1=-2, dim2=-1)[..., None]
    return scores
