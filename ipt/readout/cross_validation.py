"""Cross-validation: how likely classifiers make the examples that they were not fitted to.

Letters: N examples, C classes.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.readout.embeddings import Embeddings, with_names
from ipt.readout.linear_classifier import PENALTY, fit_linear, is_large, span_coordinates
from ipt.readout.logistic_regression import logistic_regressions
from ipt.readout.readout import SHARPNESS


class CrossValidation:
    """Compares prompts by the log-likelihood of left-out examples, summed over all folds, in nats."""

    def __init__(self, frozen: Tensor, classes: Tensor, num_classes: int, num_folds: int) -> None:
        self._frozen = frozen
        self._classes = classes
        self._num_classes = num_classes
        folds = assign_folds(classes, num_folds)
        self._left_out = [folds == fold for fold in sorted(set(folds.tolist()) - {-1})]

    @cached_property
    def baseline(self) -> float:
        """Log-likelihood of the classifier on the frozen embeddings."""
        return self._log_likelihood(self._frozen)

    def prompted(self, embeddings: Embeddings, names: Embeddings | None = None) -> float:
        """Return the log-likelihood of the classifier on both embeddings; label `names` are never left out."""
        return self._log_likelihood(embeddings.features(), names)

    def _log_likelihood(self, features: Tensor, names: Embeddings | None = None) -> float:
        total = 0.0
        for left_out, logits in zip(self._left_out, self._left_out_logits(features, names), strict=True):
            total -= F.cross_entropy(SHARPNESS * logits, self._classes[left_out], reduction="sum").item()
        return total

    def _left_out_logits(self, features: Tensor, names: Embeddings | None) -> list[Tensor]:
        """For each fold, return the logits of its examples by a classifier fitted to all other folds."""
        if not self._left_out:
            return []
        if is_large(len(features), self._num_classes):
            kept = [with_names(features[~out], self._classes[~out], names) for out in self._left_out]
            fits = [fit_linear(*examples, self._num_classes) for examples in kept]
            return [fit.logits(features[out]) for fit, out in zip(fits, self._left_out, strict=True)]
        rows, classes = with_names(features, self._classes, names)
        _, coordinates = span_coordinates(rows.double())
        counted = ~torch.stack(self._left_out)
        counted = torch.cat([counted, counted.new_ones(len(counted), len(rows) - len(features))], dim=1)
        weights, biases = logistic_regressions(coordinates, classes, self._num_classes, PENALTY, counted)
        fold_logits = coordinates[: len(features)] @ weights.mT + biases[:, None]
        return [logits[out] for logits, out in zip(fold_logits, self._left_out, strict=True)]


def assign_folds(classes: Tensor, num_folds: int) -> Tensor:
    """Return the fold [N] that leaves out each example of classes [N]; each class is spread evenly over the folds.

    The only example of a class is never left out: its fold is -1.
    """
    folds = torch.full_like(classes, -1)
    for c in range(int(classes.max()) + 1):
        rows = torch.nonzero(classes == c).flatten()
        if len(rows) > 1:
            folds[rows] = (torch.arange(len(rows)) + c) % num_folds
    return folds
