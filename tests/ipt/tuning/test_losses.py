"""Losses of many lanes at once."""

import torch
from torch.nn.functional import normalize

from ipt.tuning.losses import RidgeLoss


def test_losses_of_different_lanes_equal_those_of_each_alone() -> None:
    def loss(sizes: list[int], num_classes: int, ridge: float) -> RidgeLoss:
        rows = sum(sizes)
        return RidgeLoss(
            sizes, normalize(torch.randn(rows, 8)), torch.arange(rows) % num_classes, num_classes, ridge, 8
        )

    losses = [loss([6, 6], 2, 0.3), loss([9], 3, 0.3), loss([6, 9], 3, 0.3), loss([6], 2, 0.5), loss([6], 2, 0.3)]
    sizes = [sum(each.lane_sizes) for each in losses]
    outputs = normalize(torch.randn(sum(sizes), 8))
    alone = [RidgeLoss.of_lanes([each], part) for each, part in zip(losses, torch.split(outputs, sizes), strict=True)]
    assert [len(each) for each in alone] == [2, 1, 2, 1, 1]
    torch.testing.assert_close(RidgeLoss.of_lanes(losses, outputs), torch.cat(alone))
