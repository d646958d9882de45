"""The readout: fitted, chosen, stored in eight bits, and refused when damaged."""

import pytest
import torch
from safetensors.torch import save

from ipt.errors import CheckpointError
from ipt.readout import Embeddings, Readout, fit_readout

C, H, PER_CLASS = 4, 24, 12


def clusters(spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit vectors around C centres: rows [N, H], classes [N], centres [C, H]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(C, H, generator=generator), dim=1)
    classes = torch.arange(C).repeat(PER_CLASS)
    rows = centres[classes] + spread * torch.randn(len(classes), H, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), classes, centres


def test_separated_classes_are_read_without_error_and_with_confidence() -> None:
    rows, classes, _ = clusters(spread=0.05)
    readout = fit_readout(Embeddings(rows), classes, C, side_by_side=(False,))
    probabilities = readout.logits(Embeddings(rows)).softmax(1)
    assert readout.accuracy == 1.0
    assert (probabilities.argmax(1) == classes).all()
    assert probabilities.amax(1).min() > 0.9


def test_uninformative_embeddings_give_no_confidence() -> None:
    """The scale is chosen by leave-one-out loss, so that noise does not look like knowledge."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.nn.functional.normalize(torch.randn(C * PER_CLASS, H, generator=generator), dim=1)
    classes = torch.arange(C).repeat(PER_CLASS)
    readout = fit_readout(Embeddings(noise), classes, C, side_by_side=(False,))
    assert readout.logits(Embeddings(noise)).softmax(1).amax(1).mean() < 0.6


def test_side_by_side_is_chosen_when_only_the_frozen_half_informs() -> None:
    rows, classes, _ = clusters(spread=0.1)
    noise = torch.nn.functional.normalize(torch.randn(len(rows), H, generator=torch.Generator().manual_seed(2)), dim=1)
    readout = fit_readout(Embeddings(noise, rows), classes, C, side_by_side=(False, True))
    assert readout.side_by_side
    assert readout.accuracy > 0.9


def test_class_names_help_when_they_lie_where_the_class_lies() -> None:
    rows, classes, centres = clusters(spread=0.35)
    few = torch.arange(2 * C)
    plain = fit_readout(Embeddings(rows[few]), classes[few], C, side_by_side=(False,))
    named = fit_readout(Embeddings(rows[few]), classes[few], C, Embeddings(centres), side_by_side=(False,))
    assert named.loss < plain.loss


def test_eight_bits_change_no_decision_and_survive_the_round_trip() -> None:
    rows, classes, _ = clusters(spread=0.2)
    readout = fit_readout(Embeddings(rows, rows), classes, C)
    data = readout.to_bytes()
    assert len(data) < C * 2 * H + 600
    loaded = Readout.from_bytes(data, C, H)
    assert loaded.side_by_side
    torch.testing.assert_close(loaded.logits(Embeddings(rows, rows)), readout.logits(Embeddings(rows, rows)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        (10**9).to_bytes(8, "little") + b"{}",
        save({"weight": torch.zeros(C, H)}),
        save({"weight": torch.zeros(C, H), "row_scale": torch.ones(C), "bias": torch.ones(C)}),
        save({"weight": torch.zeros(C, H + 1, dtype=torch.int8), "row_scale": torch.ones(C), "bias": torch.ones(C)}),
        save({"weight": torch.zeros(C, H, dtype=torch.int8), "row_scale": torch.ones(C) * torch.nan, "bias": torch.ones(C)}),
    ],
    ids=["empty", "noise", "huge header", "tensors missing", "not eight bits", "other width", "NaN"],
)  # fmt: skip
def test_bytes_that_are_no_readout_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        Readout.from_bytes(data, C, H)
