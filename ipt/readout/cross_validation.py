"""Cross-validation: how likely classifiers make the examples that they were not fitted to.

Letters: N examples, C classes or labels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ipt.readout.embeddings import Embeddings, with_names
from ipt.readout.linear_classifier import PENALTY, fit_linear, is_large, span_coordinates
from ipt.readout.logistic_regression import logistic_regressions
from ipt.readout.readout import SHARPNESS
from ipt.readout.targets import are_label_sets, log_loss


class CrossValidation:
    """Compares prompts by the log-likelihood of left-out examples, summed over all folds, in nats."""

    def __init__(
        self,
        frozen: Tensor,
        classes: Tensor,
        num_classes: int,
        num_folds: int,
        groups: Sequence[int] | None = None,
    ) -> None:
        self._frozen = frozen
        self._classes = classes
        self._num_classes = num_classes
        folds = assign_folds(classes, num_folds, groups)
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
            total -= log_loss(SHARPNESS * logits, self._classes[left_out]).item()
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


def assign_folds(classes: Tensor, num_folds: int, groups: Sequence[int] | None = None) -> Tensor:
    """Return the fold [N] that leaves out each example of classes [N]; each class is spread evenly over the folds.

    Examples of one group are left out together; by default each is a group of its own. The only group of a class is
    never left out: its fold is -1. Of label sets [N, C], each label is spread as evenly as the others allow; examples
    without a label are spread as those of a further label.
    """
    classes_of_row = _classes_of_rows(classes)
    classes_of_group: dict[int, set[int]] = defaultdict(set)
    rows_of_group: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups or range(len(classes))):
        classes_of_group[group].update(classes_of_row[row])
        rows_of_group[group].append(row)
    groups_of_class = Counter(c for present in classes_of_group.values() for c in present)
    rows_in_fold: dict[int, list[int]] = defaultdict(lambda: [0] * num_folds)

    def order(group: int) -> tuple[int, int, int]:
        # What is hardest to place comes first: groups of several classes, then large groups.
        return -len(classes_of_group[group]), min(classes_of_group[group]), -len(rows_of_group[group])

    folds = torch.full((len(classes),), -1)
    for group in sorted(rows_of_group, key=order):
        present = classes_of_group[group]
        if any(groups_of_class[c] == 1 for c in present):
            continue
        first = min(present)
        loads = [(sum(rows_in_fold[c][fold] for c in present), (fold - first) % num_folds) for fold in range(num_folds)]
        fold = min(range(num_folds), key=loads.__getitem__)
        for row in rows_of_group[group]:
            folds[row] = fold
            for c in classes_of_row[row]:
                rows_in_fold[c][fold] += 1
    return folds


def _classes_of_rows(classes: Tensor) -> list[list[int]]:
    if not are_label_sets(classes):
        return [[c] for c in classes.tolist()]
    no_label = classes.shape[1]
    return [row.nonzero().flatten().tolist() or [no_label] for row in classes]
