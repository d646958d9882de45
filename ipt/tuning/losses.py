"""Losses of a gradient step, computed for the lanes of all jobs together, because many small kernels leave a GPU idle.

Letters: L lanes, B rows of all lanes, N rows of one lane, C classes, H hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.backbones.batching import to_device
from ipt.readout.embeddings import Embeddings
from ipt.readout.ridge import class_targets, gram, leave_one_out

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
    """The leave-one-out error of a ridge classifier on the rows of each lane (`ipt.readout.ridge`)."""

    is_additive: ClassVar[bool] = False
    lane_sizes: Sequence[int]
    frozen: Tensor
    """[B, H]: the embeddings of the rows without a prompt, on the CPU."""
    classes: Tensor
    """[B], on the CPU."""
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
        row = 0
        for loss in losses:
            for size in loss.lane_sizes:
                lanes_of_problem[_Problem(size, loss.num_classes, loss.ridge, loss.scale)].append(len(starts))
                starts.append(row)
                row += size
        frozen, classes = torch.cat([loss.frozen for loss in losses]), torch.cat([loss.classes for loss in losses])
        if len(lanes_of_problem) == 1:  # no rows to select, no order to restore
            (problem,) = lanes_of_problem
            return _lane_losses(problem, outputs, frozen, classes)
        parts = []
        for problem, lanes in lanes_of_problem.items():
            rows = (torch.tensor([starts[lane] for lane in lanes])[:, None] + torch.arange(problem.size)).flatten()
            parts.append(_lane_losses(problem, outputs[to_device(rows, outputs.device)], frozen[rows], classes[rows]))
        order = torch.tensor([lane for lanes in lanes_of_problem.values() for lane in lanes])
        return torch.cat(parts)[to_device(torch.argsort(order), outputs.device)]


class _Problem(NamedTuple):
    """The shape and constants of a ridge regression; lanes that share them are solved in one batch."""

    size: int
    num_classes: int
    ridge: float
    scale: float


def _lane_losses(problem: _Problem, outputs: Tensor, frozen: Tensor, classes: Tensor) -> Tensor:
    """Return the losses [L] of lanes of N rows: outputs [L N, H] on the device, frozen [L N, H], classes [L N]."""
    classes = to_device(classes, outputs.device)
    prompted, frozen = (
        rows.reshape(-1, problem.size, rows.shape[1]) for rows in (outputs, to_device(frozen, outputs.device))
    )
    targets = class_targets(classes.view(-1, problem.size), problem.num_classes)
    features = Embeddings(prompted, frozen).features()
    scores = problem.scale * leave_one_out(gram(features), targets, problem.ridge)
    losses = F.cross_entropy(scores.flatten(0, 1), classes, reduction="none", label_smoothing=RIDGE_LABEL_SMOOTHING)
    return losses.view(-1, problem.size).mean(dim=1)
