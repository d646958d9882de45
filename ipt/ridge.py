"""Ridge regression onto class indicators, with exact leave-one-out predictions, in closed form.

An encoder's few-shot classifier. With kernel K = Z Zᵀ + 1 (the one is a bias), G = K + λI and centred targets Y the
coefficients are α = G⁻¹Y, and the prediction for example i of a classifier that never saw example i is
yᵢ − αᵢ / (G⁻¹)ᵢᵢ. So every row of a batch can be a query against all the others in one solve, and the whole is
differentiable with respect to the embeddings: the loss that tunes a vector is the error of the readout that will
answer. Source of the identity: Rasmussen & Williams, "Gaussian Processes for Machine Learning", section 5.4.2.

Letters: N examples, C classes, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """For each example the scores of the classifier fitted on all the other examples: [N, C]. Differentiable.

    Args:
        kernel: [N, N], positive semi-definite.
        targets: [N, C].
        ridge: λ > 0.
    """
    identity = torch.eye(kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
    inverse = torch.linalg.inv(kernel + ridge * identity)
    scores: Tensor = targets - (inverse @ targets) / inverse.diagonal()[:, None]
    return scores


@dataclass(frozen=True)
class RidgePath:
    """Ridge solutions of one weighted dataset for any λ, from one singular value decomposition.

    With sample weights w (a weight counts an example's squared error that many times) and M = diag(√w) [Z, 1] = U S Vᵀ,
    the fit at λ is V diag(s / (s² + λ)) Uᵀ diag(√w) Y.
    """

    left: Tensor
    singular: Tensor
    right: Tensor
    targets: Tensor
    root_weights: Tensor

    @classmethod
    def of(cls, features: Tensor, targets: Tensor, weights: Tensor) -> RidgePath:
        """Decompose features [N, F], targets [N, C] and sample weights [N]."""
        root = weights.double().sqrt()[:, None]
        biased = torch.cat([features, torch.ones_like(features[:, :1])], dim=1).double() * root
        left, singular, right = torch.linalg.svd(biased, full_matrices=False)
        return cls(left, singular, right.mT, targets.double() * root, root)

    def weights(self, ridge: float) -> Tensor:
        """[C, F + 1], the bias last."""
        shrunk = self.singular / (self.singular**2 + ridge)
        return (self.right @ (shrunk[:, None] * (self.left.mT @ self.targets))).mT.float()

    def leave_one_out(self, ridge: float) -> Tensor:
        """[N, C]: each example's scores by the classifier fitted on all the others."""
        kept = self.singular**2 / (self.singular**2 + ridge)
        leverage = ((self.left**2) @ kept)[:, None]
        residual = self.targets - self.left @ (kept[:, None] * (self.left.mT @ self.targets))
        return ((self.targets - residual / (1.0 - leverage)) / self.root_weights).float()
