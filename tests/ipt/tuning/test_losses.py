"""Losses of many lanes at once."""

import torch
from torch.nn.functional import normalize

from ipt.tuning.losses import RidgeLoss


def test_losses_of_different_lanes_equal_those_of_each_alone() -> None:
    def loss(sizes: list[int], num_classes: int, ridge: float, *, has_label_sets: bool = False) -> RidgeLoss:
        rows = sum(sizes)
        classes = torch.rand(rows, num_classes) < 0.5 if has_label_sets else torch.arange(rows) % num_classes
        return RidgeLoss(sizes, normalize(torch.randn(rows, 8)), classes, num_classes, ridge, 8)

    losses = [loss([6, 6], 2, 0.3), loss([9], 3, 0.3), loss([6, 9], 3, 0.3), loss([6], 2, 0.5), loss([6], 2, 0.3)]
    losses += [loss([6, 7], 3, 0.3, has_label_sets=True), loss([6], 2, 0.3, has_label_sets=True)]
    sizes = [sum(each.lane_sizes) for each in losses]
    outputs = normalize(torch.randn(sum(sizes), 8))
    alone = [RidgeLoss.of_lanes([each], part) for each, part in zip(losses, torch.split(outputs, sizes), strict=True)]
    assert [len(each) for each in alone] == [2, 1, 2, 1, 1, 2, 1]
    torch.testing.assert_close(RidgeLoss.of_lanes(losses, outputs), torch.cat(alone))


def test_the_loss_of_one_label_is_that_of_two_classes() -> None:
    frozen, outputs = normalize(torch.randn(9, 8)), normalize(torch.randn(9, 8))
    has_label = torch.arange(9) % 3 == 0
    two_classes = RidgeLoss([9], frozen, has_label.long(), 2, 0.3, 8)
    one_label = RidgeLoss([9], frozen, has_label[:, None], 1, 0.3, 8)
    torch.testing.assert_close(RidgeLoss.of_lanes([one_label], outputs), RidgeLoss.of_lanes([two_classes], outputs))
