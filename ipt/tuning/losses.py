"""Losses of a gradient step, computed for the lanes of all jobs together, because many small kernels leave a GPU idle.

Letters: L lanes, B rows of all lanes, N rows of one lane, C classes, H hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.backbones.batching import to_device
from ipt.readout.embeddings import Embeddings
from ipt.readout.ridge import class_targets, gram, leave_one_out
from ipt.readout.targets import are_label_sets

RIDGE_LABEL_SMOOTHING = 0.05
"""Label smoothing of the leave-one-out error, both when a subspace is fitted and when a task is tuned."""
TEXT_LABEL_SMOOTHING = 0.1
"""Label smoothing of a text backbone's targets, as in the reference of arXiv 2110.07867."""


class Loss(ABC):
    """Maps the backbone's outputs for the rows of one job to a loss for each lane, over the lane's rows."""

    is_additive: ClassVar[bool]
    """Whether a row's contribution does not depend on other rows, so that gradients of chunks of rows add up."""
    lane_sizes: Sequence[int]
    """Rows of each lane; the rows of a lane are adjacent."""

    @abstractmethod
    def lane(self, lane: int) -> Self:
        """Return the loss of one lane."""

    @classmethod
    @abstractmethod
    def of_lanes(cls, losses: Sequence[Self], outputs: Tensor) -> Tensor:
        """Return the losses [L] of all lanes of all jobs, in order, from the outputs [B, …] for all their rows."""


@dataclass(frozen=True)
class MeanLoss(Loss):
    """The mean of a text backbone's outputs, which are cross-entropies, over the rows of each lane."""

    is_additive: ClassVar[bool] = True
    lane_sizes: Sequence[int]

    def lane(self, lane: int) -> Self:
        return replace(self, lane_sizes=[self.lane_sizes[lane]])

    @classmethod
    def of_lanes(cls, losses: Sequence[Self], outputs: Tensor) -> Tensor:
        sizes = [size for loss in losses for size in loss.lane_sizes]
        return torch.stack([rows.mean() for rows in torch.split(outputs, sizes)])


@dataclass(frozen=True)
class RidgeLoss(Loss):
    """The leave-one-out error of a ridge classifier on the rows of each lane (`ipt.readout.ridge`).

    The error of a label by itself is that of the two classes that have it and do not have it.
    """

    is_additive: ClassVar[bool] = False
    lane_sizes: Sequence[int]
    frozen: Tensor
    """[B, H]: the embeddings of the rows without a prompt, on the CPU."""
    classes: Tensor
    """[B], or label sets [B, C], on the CPU."""
    num_classes: int
    ridge: float
    scale: float

    def lane(self, lane: int) -> Self:
        size, start = self.lane_sizes[lane], sum(self.lane_sizes[:lane])
        rows = slice(start, start + size)
        return replace(self, lane_sizes=[size], frozen=self.frozen[rows], classes=self.classes[rows])

    @classmethod
    def of_lanes(cls, losses: Sequence[Self], outputs: Tensor) -> Tensor:
        lanes_of_problem: dict[_Problem, list[int]] = defaultdict(list)
        starts: list[int] = []
        classes_of_lane: list[Tensor] = []
        row = 0
        for loss in losses:
            problem = partial(_Problem, num_classes=loss.num_classes, ridge=loss.ridge, scale=loss.scale)
            has_sets = are_label_sets(loss.classes)
            for size, classes in zip(loss.lane_sizes, torch.split(loss.classes, list(loss.lane_sizes)), strict=True):
                lanes_of_problem[problem(size=size, has_label_sets=has_sets)].append(len(starts))
                classes_of_lane.append(classes)
                starts.append(row)
                row += size
        frozen = torch.cat([loss.frozen for loss in losses])
        if len(lanes_of_problem) == 1:  # no rows to select, no order to restore
            (only,) = lanes_of_problem
            return _lane_losses(only, outputs, frozen, torch.cat(classes_of_lane))
        parts = []
        for each, lanes in lanes_of_problem.items():
            rows = (torch.tensor([starts[lane] for lane in lanes])[:, None] + torch.arange(each.size)).flatten()
            classes = torch.cat([classes_of_lane[lane] for lane in lanes])
            parts.append(_lane_losses(each, outputs[to_device(rows, outputs.device)], frozen[rows], classes))
        order = torch.tensor([lane for lanes in lanes_of_problem.values() for lane in lanes])
        return torch.cat(parts)[to_device(torch.argsort(order), outputs.device)]


class _Problem(NamedTuple):
    """The shape and constants of a ridge regression; lanes that share them are solved in one batch."""

    size: int
    num_classes: int
    ridge: float
    scale: float
    has_label_sets: bool


def _lane_losses(problem: _Problem, outputs: Tensor, frozen: Tensor, classes: Tensor) -> Tensor:
    """Return the losses [L] of lanes of N rows: outputs [L N, H] on the device, frozen [L N, H], classes [L N]
    or label sets [L N, C]."""
    classes = to_device(classes, outputs.device)
    prompted, frozen = (
        rows.reshape(-1, problem.size, rows.shape[1]) for rows in (outputs, to_device(frozen, outputs.device))
    )
    kernel = gram(Embeddings(prompted, frozen).features())
    if problem.has_label_sets:
        has_label = classes.view(-1, problem.size, problem.num_classes).to(kernel)
        scores = problem.scale * leave_one_out(kernel, 2.0 * has_label - 1.0, problem.ridge)
        smoothed = (1.0 - RIDGE_LABEL_SMOOTHING) * has_label + 0.5 * RIDGE_LABEL_SMOOTHING
        return F.binary_cross_entropy_with_logits(scores, smoothed, reduction="none").mean(dim=(1, 2))
    targets = class_targets(classes.view(-1, problem.size), problem.num_classes)
    scores = problem.scale * leave_one_out(kernel, targets, problem.ridge)
    losses = F.cross_entropy(scores.flatten(0, 1), classes, reduction="none", label_smoothing=RIDGE_LABEL_SMOOTHING)
    return losses.view(-1, problem.size).mean(dim=1)
