"""Logistic regressions converge, and fits that run together equal fits that run alone."""

import pytest
import torch
from torch.nn import functional as F

from ipt.readout.logistic_regression import TOLERANCE, logistic_regressions


def examples(count: int, features: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit rows of overlapping classes, and the class of each."""
    generator = torch.Generator().manual_seed(count)
    classes_of_row = torch.arange(count) % classes
    centres = torch.randn(classes, features, generator=generator, dtype=torch.double)
    rows = centres[classes_of_row] + 2 * torch.randn(count, features, generator=generator, dtype=torch.double)
    return F.normalize(rows, dim=1), classes_of_row


@pytest.mark.parametrize(("count", "features", "classes"), [(12, 8, 2), (90, 30, 6), (120, 60, 15)])
@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_the_gradient_of_a_fit_vanishes(count: int, features: int, classes: int, penalty: float) -> None:
    rows, classes_of_row = examples(count, features, classes)
    [weight], [bias] = logistic_regressions(rows, classes_of_row, classes, penalty)
    weight.requires_grad_(), bias.requires_grad_()
    loss = (
        F.cross_entropy(rows @ weight.mT + bias, classes_of_row, reduction="sum")
        + 0.5 * penalty * weight.square().sum()
    )
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert float(gradient.abs().max()) <= TOLERANCE * 1.01


def test_fits_to_subsets_of_the_examples_equal_each_alone() -> None:
    rows, classes_of_row = examples(60, 20, 4)
    counted = torch.stack([torch.arange(60) % 5 != left_out for left_out in range(5)])
    weights, biases = logistic_regressions(rows, classes_of_row, 4, 1.0, counted)
    assert weights.shape == (5, 4, 20)
    assert biases.shape == (5, 4)
    for weight, bias, subset in zip(weights, biases, counted, strict=True):
        [weight_alone], [bias_alone] = logistic_regressions(rows[subset], classes_of_row[subset], 4, 1.0)
        torch.testing.assert_close(weight, weight_alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(bias, bias_alone, atol=1e-5, rtol=0)


def test_a_class_without_examples_is_the_least_likely() -> None:
    rows, classes_of_row = examples(30, 20, 3)
    [weight], [bias] = logistic_regressions(rows, classes_of_row, 3, 1.0, (classes_of_row != 2)[None])
    logits = rows @ weight.mT + bias
    assert torch.isfinite(logits).all()
    assert (logits.argmin(dim=1) == 2).all()


def test_nan_affects_its_own_fit_only() -> None:
    rows, classes_of_row = examples(30, 20, 3)
    both = torch.stack([rows, rows])
    both[1, 0, 0] = torch.nan
    weights, _ = logistic_regressions(both, classes_of_row, 3, 1.0)
    assert torch.isfinite(weights[0]).all()
    assert not torch.isfinite(weights[1]).all()


def test_one_label_by_itself_equals_two_classes() -> None:
    rows, classes_of_row = examples(40, 12, 2)
    [weights], [biases] = logistic_regressions(rows, classes_of_row, 2, 1.0)
    [weight], [bias] = logistic_regressions(rows, (classes_of_row == 1)[:, None], 1, 1.0)
    torch.testing.assert_close(weight[0], weights[1] - weights[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(bias[0], biases[1] - biases[0], atol=1e-5, rtol=0)


def test_labels_are_fitted_independently_of_each_other() -> None:
    rows, classes_of_row = examples(40, 12, 4)
    labels = torch.stack([classes_of_row == 0, classes_of_row < 2, classes_of_row != 3], dim=1)
    [weights], [biases] = logistic_regressions(rows, labels, 3, 1.0)
    for label in range(3):
        [weight], [bias] = logistic_regressions(rows, labels[:, [label]], 1, 1.0)
        torch.testing.assert_close(weights[[label]], weight, atol=1e-5, rtol=0)
        torch.testing.assert_close(biases[[label]], bias, atol=1e-5, rtol=0)
