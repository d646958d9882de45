"""Logistic regressions fitted at once are those fitted alone, and where their gradient vanishes."""

import pytest
import torch
from torch.nn import functional as F

from ipt.readout.logistic_regression import TOLERANCE, logistic_regressions


def examples(count: int, features: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows that overlap a little, of classes in turn."""
    generator = torch.Generator().manual_seed(count)
    of_row = torch.arange(count) % classes
    centres = torch.randn(classes, features, generator=generator, dtype=torch.double)
    rows = centres[of_row] + 2 * torch.randn(count, features, generator=generator, dtype=torch.double)
    return F.normalize(rows, dim=1), of_row


@pytest.mark.parametrize(("count", "features", "classes"), [(12, 8, 2), (90, 30, 6), (120, 60, 15)])
@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_a_fit_ends_where_the_gradient_vanishes(count: int, features: int, classes: int, penalty: float) -> None:
    rows, of_row = examples(count, features, classes)
    [weight], [bias] = logistic_regressions(rows, of_row, classes, penalty)
    weight.requires_grad_(), bias.requires_grad_()
    loss = F.cross_entropy(rows @ weight.mT + bias, of_row, reduction="sum") + 0.5 * penalty * weight.square().sum()
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert float(gradient.abs().max()) <= TOLERANCE * 1.01


def test_fits_to_some_of_the_examples_each_are_what_they_are_alone() -> None:
    rows, of_row = examples(60, 20, 4)
    counted = torch.stack([torch.arange(60) % 5 != left_out for left_out in range(5)])
    weights, biases = logistic_regressions(rows, of_row, 4, 1.0, counted)
    assert weights.shape == (5, 4, 20)
    assert biases.shape == (5, 4)
    for weight, bias, own in zip(weights, biases, counted, strict=True):
        [alone], [its_bias] = logistic_regressions(rows[own], of_row[own], 4, 1.0)
        torch.testing.assert_close(weight, alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(bias, its_bias, atol=1e-5, rtol=0)


def test_a_class_that_a_fit_sees_nothing_of_is_the_least_likely() -> None:
    rows, of_row = examples(30, 20, 3)
    [weight], [bias] = logistic_regressions(rows, of_row, 3, 1.0, (of_row != 2)[None])
    logits = rows @ weight.mT + bias
    assert torch.isfinite(logits).all()
    assert (logits.argmin(dim=1) == 2).all()


def test_what_is_no_number_spoils_its_own_fit_alone() -> None:
    rows, of_row = examples(30, 20, 3)
    both = torch.stack([rows, rows])
    both[1, 0, 0] = torch.nan
    weights, _ = logistic_regressions(both, of_row, 3, 1.0)
    assert torch.isfinite(weights[0]).all()
    assert not torch.isfinite(weights[1]).all()
