"""From which logit a label of a multi-label task is answered, chosen on rows that its classifier was not fitted to.

Letters: M measured rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.readout.cross_validation import assign_folds

FOLDS = 3
PRIOR_ROWS = 4.0
"""Rows of a label from which on its observed counts weigh more than the counts that the probabilities expect."""


def choose_thresholds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logit [C] of each label that maximizes its F1 on rows with logits [M, C] and label sets [M, C].

    F1 is computed from the observed counts mixed with the expected ones, so that few rows do not decide. Candidates are
    zero and the middle between any two neighboring logits; of equally good ones, the nearest to zero is taken.
    """
    if not len(logits):
        return torch.zeros(labels.shape[1], dtype=torch.float64)
    return torch.stack(
        [_choose(logits[:, label].double(), labels[:, label].double()) for label in range(labels.shape[1])]
    )


def cross_fitted_thresholds(logits: Tensor, labels: Tensor, groups: Sequence[int]) -> Tensor:
    """Return thresholds [M, C] of which each row's were chosen on other rows.

    Rows of one group [M] are near-duplicates; the thresholds of none are chosen on another.
    """
    folds = assign_folds(labels, FOLDS, groups)
    thresholds = choose_thresholds(logits, labels).repeat(len(logits), 1)
    for fold in range(FOLDS):
        out = folds == fold
        thresholds[out] = choose_thresholds(logits[~out], labels[~out])
    return thresholds


def _choose(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the threshold of one label."""
    order = torch.argsort(logits, descending=True)
    logits, positive = logits[order], positive[order]
    share = PRIOR_ROWS / (PRIOR_ROWS + positive.sum())
    expected = share * logits.sigmoid() + (1.0 - share) * positive
    inner = (logits[:-1] + logits[1:]) / 2
    candidates = torch.cat([torch.zeros(1, dtype=torch.float64), inner])
    answered = (logits[None] >= candidates[:, None]).double()
    # 2 TP / (2 TP + FP + FN) = 2 TP / (answered + positive)
    f1 = 2 * (answered @ expected) / (answered.sum(dim=1) + expected.sum()).clamp_min(1e-12)
    best = (f1 >= f1.max() - 1e-9).nonzero().flatten()
    chosen: Tensor = candidates[best[candidates[best].abs().argmin()]]
    return chosen
