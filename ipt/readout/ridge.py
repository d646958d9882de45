"""Ridge regression onto class indicators with exact leave-one-out predictions: the loss that tunes task vectors.

With kernel K = Z Zᵀ + 1 (the one is a bias), G = K + λI and centred targets Y the coefficients are α = G⁻¹Y, and the
prediction for example i of a classifier that never saw example i is yᵢ − αᵢ / (G⁻¹)ᵢᵢ. So every row of a batch is a
query against all the others in one solve, differentiable with respect to the embeddings. Source of the identity:
Rasmussen & Williams, "Gaussian Processes for Machine Learning", section 5.4.2.

Letters: N examples, C classes, F features. Everything may have a dimension in front, of independent problems.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LABEL_SMOOTHING = 0.05
"""Of the leave-one-out error as a loss, when a subspace is found and when a task is tuned in it."""


def class_targets(classes: Tensor, num_classes: int) -> Tensor:
    """Class indices [N] to centred indicators [N, C]: 1 − 1/C for the class, −1/C for the others."""
    return F.one_hot(classes, num_classes).float() - 1.0 / num_classes


def gram(embeddings: Tensor) -> Tensor:
    """The kernel with bias of embeddings [N, F]: [N, N]."""
    return embeddings @ embeddings.mT + 1.0


def leave_one_out(kernel: Tensor, targets: Tensor, ridge: Tensor | float) -> Tensor:
    """For each example the scores of the classifier fitted on all the other examples: [N, C]. Differentiable.

    Args:
        kernel: [N, N], positive semi-definite, so that with λ on its diagonal there is always an inverse.
        targets: [N, C].
        ridge: λ > 0.
    """
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    inverse, _ = torch.linalg.inv_ex(kernel + ridge * identity)  # `inv` would wait for the device to see if it worked
    scores: Tensor = targets - (inverse @ targets) / inverse.diagonal(dim1=-2, dim2=-1)[..., None]
    return scores
