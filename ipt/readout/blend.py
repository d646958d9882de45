"""How much each of a readout's two classifiers counts, measured on rows that neither was fitted to.

Letters: M measured rows, C classes or labels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ipt.readout.readout import SHARPNESS
from ipt.readout.targets import log_loss

BLENDS = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
"""Weights of the classifier on both embeddings that are compared."""


class Blended(NamedTuple):
    """A weight of the classifier on both embeddings, and what the blend says of the measured rows."""

    weight: float
    loss: float
    """Cross-entropy: the mean over the rows, in nats."""
    logits: Tensor
    """[M, C]."""

    def accuracy(self, classes: Tensor) -> float:
        """Return the share of the rows whose class [M] has the highest logit."""
        return (self.logits.argmax(dim=1) == classes).double().mean().item()


def blend(on_both: Tensor, on_frozen: Tensor, classes: Tensor) -> Blended:
    """Weigh two classifiers by their logits [M, C] of rows that they were not fitted to.

    `classes` are those of the rows [M], or their label sets [M, C].

    The weight is the posterior mean under a uniform prior over `BLENDS`: near the best weight if the rows are many, and
    near one half if they are too few to tell.
    """
    blends = BLENDS[:, None, None]
    logits = SHARPNESS * (blends * on_both.double() + (1.0 - blends) * on_frozen.double())
    log_likelihoods = torch.stack([-log_loss(each, classes) for each in logits])
    weight = float(log_likelihoods.softmax(dim=0) @ BLENDS)
    blended = SHARPNESS * (weight * on_both.double() + (1.0 - weight) * on_frozen.double())
    return Blended(weight, log_loss(blended, classes, "mean").item(), blended)
