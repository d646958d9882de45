"""The readout: fitted, stored in eight bits, and refused when damaged."""

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ipt.errors import CheckpointError
from ipt.readout import Embeddings, Readout, fit_readout, frozen_half

C, H, PER_CLASS = 4, 24, 12


def clusters(spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors around C centres: rows [N, H], classes [N]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(C, H, generator=generator), dim=1)
    classes = torch.arange(C).repeat(PER_CLASS)
    rows = centres[classes] + spread * torch.randn(len(classes), H, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), classes


def test_the_fit_is_the_minimum_of_the_penalized_loss() -> None:
    """Against Newton steps in double precision on the full feature space."""
    rows, classes = clusters(spread=0.3)
    readout = fit_readout(rows, classes, C, blend=1.0)
    weight, bias = torch.zeros(C, H, dtype=torch.double), torch.zeros(C, dtype=torch.double)

    def objective(parameters: torch.Tensor) -> torch.Tensor:
        w, b = parameters[: C * H].view(C, H), parameters[C * H :]
        loss = torch.nn.functional.cross_entropy(rows.double() @ w.mT + b, classes, reduction="sum")
        # The bias is free up to a constant; a trace of penalty makes the Hessian invertible.
        return loss + 0.5 * w.square().sum() + 1e-9 * b.square().sum()

    point = torch.cat([weight.flatten(), bias])
    for _ in range(12):
        gradient = torch.func.grad(objective)(point)
        hessian = torch.func.hessian(objective)(point)
        point = point - torch.linalg.solve(hessian, gradient)
    expected = rows.double() @ point[: C * H].view(C, H).mT + point[C * H :]
    fitted = readout.logits(rows).double()
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (fitted, expected)]
    torch.testing.assert_close(centred[0], centred[1], atol=0.03, rtol=0)  # eight bits a weight


def test_a_blend_is_the_blend_of_the_two_classifiers_logits() -> None:
    prompted, classes = clusters(spread=0.2)
    frozen, _ = clusters(spread=0.4, seed=1)
    features = Embeddings(prompted, frozen).features()
    torch.testing.assert_close(frozen_half(features), frozen)
    both, blend, alone = (fit_readout(features, classes, C, weight).logits(features) for weight in (1.0, 0.3, 0.0))
    torch.testing.assert_close(blend, 0.3 * both + 0.7 * alone, atol=0.02, rtol=0)  # eight bits a weight
    torch.testing.assert_close(alone, fit_readout(frozen, classes, C, blend=1.0).logits(frozen), atol=0.02, rtol=0)
    assert (both - alone).abs().max() > 0.2, "a test in which both are the same shows nothing"


def test_separated_classes_are_read_without_error() -> None:
    rows, classes = clusters(spread=0.05)
    assert (fit_readout(rows, classes, C, blend=1.0).logits(rows).argmax(1) == classes).all()


def test_more_examples_than_features_and_fewer_are_both_fitted() -> None:
    rows, classes = clusters(spread=0.2)
    for count in (C, len(rows)):
        readout = fit_readout(rows[:count], classes[:count], C, blend=1.0)
        assert readout.weight.shape == (C, H)
        assert (readout.logits(rows[:count]).argmax(1) == classes[:count]).all()


def test_features_are_unit_vectors_of_both_embeddings() -> None:
    rows, _ = clusters(spread=0.2)
    other, _ = clusters(spread=0.2, seed=1)
    features = Embeddings(rows, other).features()
    assert features.shape == (len(rows), 2 * H)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(rows)))
    assert not torch.equal(features, Embeddings(rows, rows).features())


def test_eight_bits_survive_the_round_trip() -> None:
    rows, classes = clusters(spread=0.2)
    features = Embeddings(rows, rows).features()
    readout = fit_readout(features, classes, C)
    data = readout.to_bytes()
    assert len(data) < C * 2 * H + 600
    loaded = Readout.from_bytes(data, C, H)
    np.testing.assert_array_equal(loaded.logits(features), readout.logits(features))


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.zeros(C, 2 * H, dtype=torch.int8)},
        {"weight": torch.zeros(C, 2 * H), "row_scale": torch.ones(C), "bias": torch.ones(C)},
        {"weight": torch.zeros(C, H, dtype=torch.int8), "row_scale": torch.ones(C), "bias": torch.ones(C)},
        {"weight": torch.zeros(C + 1, 2 * H, dtype=torch.int8), "row_scale": torch.ones(C), "bias": torch.ones(C)},
        {
            "weight": torch.zeros(C, 2 * H, dtype=torch.int8),
            "row_scale": torch.full((C,), torch.nan),
            "bias": torch.ones(C),
        },
    ],
    ids=["tensors missing", "not eight bits", "other width", "other classes", "NaN"],
)
def test_tensors_that_are_no_readout_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError):
        Readout.from_bytes(save(tensors), C, H)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, (10**9).to_bytes(8, "little") + b"{}"])
def test_bytes_that_are_no_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="not readable"):
        Readout.from_bytes(data, C, H)
