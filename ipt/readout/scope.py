"""Whether a text belongs to any label of a task: how far its embeddings are from those of the examples.

The distance is a Mahalanobis distance to the nearest mean of a label, over the prompted and the frozen embedding side
by side. With few examples in many dimensions their covariance is mostly noise, so it is shrunk to a multiple of the
identity, and only its largest directions are kept. A logistic curve turns distances into probabilities. Its positive
rows are examples at means that were computed without them; its negative rows are the same examples at the mean of
another label, and texts that are known to belong to no label. docs/decisions/0062 lists the alternatives.

Letters: B rows, N examples, C classes, H hidden size, F = 2H features, R directions, S texts of no label.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ipt.errors import CheckpointError
from ipt.readout.cross_validation import assign_folds
from ipt.readout.embeddings import PROMPTED_SHARE, Embeddings
from ipt.readout.readout import Readout, StackedReadouts, quantized

SHRINKAGE = 0.9
"""Share of the identity in the covariance of an example around the mean of its label."""
DIRECTIONS = 8
"""R."""
FOLDS = 3
OTHERS = 4
"""One of so many other labels is nearer to an example than the label that makes its negative row."""
STAND_INS = 8.0
"""As many texts of no label as the examples at other labels' means count for, all together."""
MIN_ROWS = 4
"""Fewest left-out examples that a curve is fitted to."""
_NEWTON_STEPS = 50
_SLOPE_PENALTY = 0.01
_MIN_DISTANCE = 1e-3
_CURVE = struct.Struct("<dd")


@dataclass(frozen=True)
class Scope:
    """The distance to the labels, as a linear map of a row's embeddings to C + R numbers, and the logistic curve.

    The squared distance of a row is 1 - max of the first C numbers - sum of the squares of the others.
    """

    linear: Readout
    intercept: float
    slope: float

    def to_bytes(self) -> bytes:
        """Return the curve and the bytes of the linear map, of which C + R times 2H are weights."""
        return _CURVE.pack(self.intercept, self.slope) + self.linear.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, num_classes: int, hidden_size: int) -> Scope:
        """Read the bytes of `to_bytes`.

        Raises:
            CheckpointError: the bytes are no scope of that many classes and that hidden size.
        """
        if len(data) < _CURVE.size:
            raise CheckpointError(f"a scope has at least {_CURVE.size} bytes, got {len(data)}")
        intercept, slope = _CURVE.unpack(data[: _CURVE.size])
        if not (math.isfinite(intercept) and math.isfinite(slope)):
            raise CheckpointError("the curve of a scope must be two finite numbers")
        linear = Readout.from_bytes(data[_CURVE.size :], num_classes + DIRECTIONS, hidden_size)
        return cls(linear, intercept, slope)


def in_scope_of_rows(scopes: Sequence[Scope | None], embeddings: Embeddings) -> list[float | None]:
    """Return the probability that each row [B] belongs to a label; None for a row without a scope.

    The scopes are those of the rows' tasks, which have the same number of labels.
    """
    known = [(row, scope) for row, scope in enumerate(scopes) if scope is not None]
    probabilities: list[float | None] = [None] * len(scopes)
    if not known:
        return probabilities
    rows = [row for row, _ in known]
    first = known[0][1]
    shared = all(scope is first for _, scope in known)
    linear = first.linear if shared else StackedReadouts([scope.linear for _, scope in known])
    outputs = linear.logits(Embeddings(embeddings.prompted[rows], embeddings.frozen[rows]))
    curves = torch.tensor([(scope.intercept, scope.slope) for _, scope in known])
    in_scope = torch.sigmoid(curves[:, 0] - curves[:, 1] * _log_distances(outputs))
    for row, probability in zip(rows, in_scope.tolist(), strict=True):
        probabilities[row] = probability
    return probabilities


def fit_scope(
    embeddings: Embeddings,
    classes: Tensor,
    num_classes: int,
    groups: Sequence[int],
    outside: Embeddings | None = None,
) -> Scope | None:
    """Fit a scope to examples; None if too few of them can be left out to measure distances.

    Args:
        embeddings: of N examples.
        classes: [N], the class of each example.
        num_classes: C.
        groups: [N]; near-duplicates, which are left out together, share a group.
        outside: of S texts that belong to no label, if there are any.
    """
    features = embeddings.features().double()
    folds = assign_folds(classes, FOLDS, groups)
    inside: list[Tensor] = []
    others: list[Tensor] = []
    for fold in range(FOLDS):
        out = folds == fold
        if not out.any():
            continue
        outputs = _fit(features[~out], classes[~out], num_classes).outputs(features[out])
        inside.append(_log_distances(outputs))
        others.append(_log_distances_to_others(outputs, classes[out]))
    if sum(map(len, inside)) < MIN_ROWS:
        return None
    metric = _fit(features, classes, num_classes)
    negatives = torch.cat(others)
    weights = torch.full_like(negatives, STAND_INS / len(negatives))
    if outside is not None:
        distances = _log_distances(metric.outputs(outside.features().double()))
        negatives, weights = torch.cat([negatives, distances]), torch.cat([weights, torch.ones_like(distances)])
    intercept, slope = _fit_curve(torch.cat(inside), negatives, weights)
    scales = torch.tensor([PROMPTED_SHARE, 1.0 - PROMPTED_SHARE]).sqrt().repeat_interleave(features.shape[1] // 2)
    return Scope(quantized(metric.weights * scales, metric.bias), intercept, slope)


class _Metric(NamedTuple):
    """The linear map of a scope before rounding: `weights` [C + R, F] of features, `bias` [C + R]."""

    weights: Tensor
    bias: Tensor

    def outputs(self, features: Tensor) -> Tensor:
        """Return the numbers [B, C + R] of features [B, F]."""
        return features @ self.weights.T + self.bias


def _fit(features: Tensor, classes: Tensor, num_classes: int) -> _Metric:
    """Fit the distance to examples [N, F]; a class without examples is far from every row."""
    counts = torch.bincount(classes, minlength=num_classes).double()
    sums = torch.zeros(num_classes, features.shape[1], dtype=features.dtype).index_add(0, classes, features)
    means = sums / counts.clamp_min(1)[:, None]
    directions = _directions(features - means[classes])
    # |x - m|² - |D (x - m)|² = 1 - |D x|² - (2 x · (m - Dᵀ D m) - |m|² + |D m|²) for x of unit length.
    projected = means @ directions.T
    bias = projected.square().sum(dim=1) - means.square().sum(dim=1)
    bias[counts == 0] = -2.0
    weights = torch.cat([2 * (means - projected @ directions), directions])
    return _Metric(weights, torch.cat([bias, bias.new_zeros(len(directions))]))


def _directions(spread: Tensor) -> Tensor:
    """Return the scaled directions D [R, F] in which rows [N, F] spread most around their means."""
    directions = torch.zeros(DIRECTIONS, spread.shape[1], dtype=spread.dtype)
    variance = spread.square().mean()  # of a feature
    if variance == 0:
        return directions
    # The nonzero eigenvalues of A Aᵀ and Aᵀ A are the same: decompose the smaller matrix.
    is_wide = len(spread) <= spread.shape[1]
    values, vectors = torch.linalg.eigh(spread @ spread.T if is_wide else spread.T @ spread)
    values, vectors = values[-DIRECTIONS:].clamp_min(1e-12), vectors[:, -DIRECTIONS:]
    axes = (spread.T @ vectors / values.sqrt() if is_wide else vectors).T
    kept = (1.0 - SHRINKAGE) * values / len(spread)
    directions[: len(values)] = axes * (kept / (kept + SHRINKAGE * variance)).sqrt()[:, None]
    return directions


def _log_distances(outputs: Tensor, rank: int = 0) -> Tensor:
    """Return the logarithm of the squared distance [B] of rows with outputs [B, C + R] to their nearest label.

    A `rank` above 0 is for the label that so many others are nearer than.
    """
    near = outputs[:, :-DIRECTIONS].sort(dim=1, descending=True).values[:, rank]
    return (1.0 - near - outputs[:, -DIRECTIONS:].square().sum(dim=1)).clamp_min(_MIN_DISTANCE).log()


def _log_distances_to_others(outputs: Tensor, classes: Tensor) -> Tensor:
    """Return the same [B] for labels that a row does not have, in place of texts that belong to no label.

    The nearest other label would be too near for a text of another domain, and most labels are too far: the label at a
    quarter of the order was measured to be right.
    """
    others = outputs.scatter(1, classes[:, None], -torch.inf)
    num_others = outputs.shape[1] - DIRECTIONS - 1
    return _log_distances(others, rank=num_others // OTHERS)


def _fit_curve(positives: Tensor, negatives: Tensor, negative_weights: Tensor) -> tuple[float, float]:
    """Return intercept and slope of the logistic curve that tells positive from negative log distances.

    Both sides count the same in total: at 0.5 a row is as likely to be of either, if as many of each are asked.
    """
    values = torch.cat([positives, negatives])
    finite = values[torch.isfinite(values)]
    center, scale = finite.mean(), finite.std().clamp_min(1e-6)
    standard = ((values.clamp(max=finite.max()) - center) / scale)[:, None]
    rows = torch.cat([torch.ones_like(standard), -standard], dim=1)
    targets = torch.cat([torch.ones(len(positives)), torch.zeros(len(negatives))]).double()
    weights = torch.cat(
        [torch.full_like(positives, 0.5 / len(positives)), 0.5 * negative_weights / negative_weights.sum()]
    )
    penalty = torch.diag(torch.tensor([0.0, _SLOPE_PENALTY], dtype=torch.float64))
    parameters = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        probabilities = torch.sigmoid(rows @ parameters)
        gradient = rows.T @ (weights * (probabilities - targets)) + penalty @ parameters
        curvature = (weights * probabilities * (1 - probabilities)).clamp_min(1e-9)
        parameters = parameters - torch.linalg.solve(rows.T @ (curvature[:, None] * rows) + penalty, gradient)
    slope = max(parameters[1].item(), 0.0) / scale.item()
    return parameters[0].item() + slope * center.item(), slope
