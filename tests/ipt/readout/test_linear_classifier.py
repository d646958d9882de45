"""Fitting one linear classifier, exactly and by L-BFGS."""

import pytest
import torch
from torch.nn import functional as F

from ipt.readout import linear_classifier
from ipt.readout.linear_classifier import fit_linear
from tests.support.clusters import C, H, clusters


def test_the_fit_is_the_minimum_of_the_penalized_loss() -> None:
    """Compared with Newton steps in double precision on the full feature space."""
    rows, classes = clusters(spread=0.3)
    weight, bias = torch.zeros(C, H, dtype=torch.double), torch.zeros(C, dtype=torch.double)

    def objective(parameters: torch.Tensor) -> torch.Tensor:
        w, b = parameters[: C * H].view(C, H), parameters[C * H :]
        loss = F.cross_entropy(rows.double() @ w.mT + b, classes, reduction="sum")
        # The bias is free up to a constant; a tiny penalty makes the Hessian invertible.
        return loss + 0.5 * w.square().sum() + 1e-9 * b.square().sum()

    point = torch.cat([weight.flatten(), bias])
    for _ in range(12):
        gradient = torch.func.grad(objective)(point)
        hessian = torch.func.hessian(objective)(point)
        point = point - torch.linalg.solve(hessian, gradient)
    expected = rows.double() @ point[: C * H].view(C, H).mT + point[C * H :]
    fitted = fit_linear(rows, classes, C).logits(rows)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (fitted, expected)]
    torch.testing.assert_close(centred[0], centred[1], atol=1e-4, rtol=0)


def test_fits_to_more_and_to_fewer_examples_than_features() -> None:
    rows, classes = clusters(spread=0.2)
    for count in (C, len(rows)):
        fitted = fit_linear(rows[:count], classes[:count], C)
        assert fitted.weight.shape == (C, H)
        assert (fitted.logits(rows[:count]).argmax(1) == classes[:count]).all()


def test_a_large_fit_is_close_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, classes = clusters(spread=0.3)
    exact = fit_linear(rows, classes, C)
    monkeypatch.setattr(linear_classifier, "LARGE_FIT", len(rows) * C - 1)
    large = fit_linear(rows, classes, C)
    assert large.weight.dtype == exact.weight.dtype == torch.double
    assert not torch.equal(large.weight, exact.weight), "both were fitted in double precision"
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (large.logits(rows), exact.logits(rows))]
    torch.testing.assert_close(centred[0], centred[1], atol=0.01, rtol=0)  # the error of eight-bit weights is larger
    monkeypatch.setattr(linear_classifier, "LARGE_FIT", len(rows) * C)
    assert torch.equal(fit_linear(rows, classes, C).weight, exact.weight)


def test_a_large_fit_of_labels_equals_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(60, 12, generator=generator))
    labels = rows[:, :3] + 0.2 * torch.randn(60, 3, generator=generator) > 0.1
    exact = fit_linear(rows, labels, 3)
    monkeypatch.setattr(linear_classifier, "LARGE_FIT", 0)
    torch.testing.assert_close(fit_linear(rows, labels, 3).logits(rows), exact.logits(rows), atol=2e-3, rtol=0)
