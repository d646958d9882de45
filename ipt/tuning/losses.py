"""Losses of a gradient step, computed for the lanes of all jobs together: a GPU is idle while many small ones are sent.

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
    """From what the backbone gives for one job's rows to the loss of each of its lanes, each of its own rows."""

    adds_up: ClassVar[bool]
    """Whether each row adds its share whatever the others are, so that gradients of some rows at a time add up, too."""
    lane_sizes: Sequence[int]
    """Rows of each lane, which stand together."""

    @abstractmethod
    def lane(self, lane: int) -> Self:
        """That of one lane alone."""

    @classmethod
    @abstractmethod
    def of_lanes(cls, losses: Sequence[Self], outputs: Tensor) -> Tensor:
        """[L] for all lanes of all jobs, in order, from what the backbone gives for all their rows [B, …]."""


@dataclass(frozen=True)
class MeanLoss(Loss):
    """The mean over each lane's rows of what a text backbone gives: their cross-entropies."""

    adds_up: ClassVar[bool] = True
    lane_sizes: Sequence[int]

    def lane(self, lane: int) -> Self:
        return replace(self, lane_sizes=[self.lane_sizes[lane]])

    @classmethod
    def of_lanes(cls, losses: Sequence[Self], outputs: Tensor) -> Tensor:
        sizes = [size for loss in losses for size in loss.lane_sizes]
        return torch.stack([part.mean() for part in torch.split(outputs, sizes)])


@dataclass(frozen=True)
class RidgeLoss(Loss):
    """The leave-one-out error of a ridge classifier on each lane's rows (`ipt.readout.ridge`)."""

    adds_up: ClassVar[bool] = False
    lane_sizes: Sequence[int]
    frozen: Tensor
    """[rows, H]: their embeddings without a prompt, on the CPU."""
    classes: Tensor
    """[rows], on the CPU."""
    num_classes: int
    ridge: float
    scale: float

    def lane(self, lane: int) -> Self:
        size, start = self.lane_sizes[lane], sum(self.lane_sizes[:lane])
        own = slice(start, start + size)
        return replace(self, lane_sizes=[size], frozen=self.frozen[own], classes=self.classes[own])

    @classmethod
    def of_lanes(cls, losses: Sequence[Self], outputs: Tensor) -> Tensor:
        alike: dict[_Kind, list[int]] = defaultdict(list)
        starts: list[int] = []
        lanes = row = 0
        for loss in losses:
            for size in loss.lane_sizes:
                alike[_Kind(size, loss.num_classes, loss.ridge, loss.scale)].append(lanes)
                starts.append(row)
                lanes, row = lanes + 1, row + size
        frozen, classes = torch.cat([loss.frozen for loss in losses]), torch.cat([loss.classes for loss in losses])
        if len(alike) == 1:  # nothing to pick, nor to put in order again
            (kind,) = alike
            return _of_alike(kind, outputs, frozen, classes)
        parts = []
        for kind, group in alike.items():
            rows = (torch.tensor([starts[lane] for lane in group])[:, None] + torch.arange(kind.size)).flatten()
            parts.append(_of_alike(kind, outputs[to_device(rows, outputs.device)], frozen[rows], classes[rows]))
        order = torch.tensor([lane for group in alike.values() for lane in group])
        return torch.cat(parts)[to_device(torch.argsort(order), outputs.device)]


class _Kind(NamedTuple):
    """What lanes whose losses are one computation have in common."""

    size: int
    num_classes: int
    ridge: float
    scale: float


def _of_alike(kind: _Kind, outputs: Tensor, frozen: Tensor, classes: Tensor) -> Tensor:
    """[L] of lanes of N rows each: outputs [L N, H] on the device, frozen [L N, H] and classes [L N] on the CPU."""
    wanted = to_device(classes, outputs.device)
    of_lanes = [each.reshape(-1, kind.size, each.shape[1]) for each in (outputs, to_device(frozen, outputs.device))]
    targets = class_targets(wanted.view(-1, kind.size), kind.num_classes)
    scores = kind.scale * leave_one_out(gram(Embeddings(*of_lanes).features()), targets, kind.ridge)
    each = F.cross_entropy(scores.flatten(0, 1), wanted, reduction="none", label_smoothing=RIDGE_LABEL_SMOOTHING)
    return each.view(-1, kind.size).mean(dim=1)
