"""The readout: its fit, its bytes, and damaged bytes that it rejects."""

import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ipt.errors import CheckpointError
from ipt.readout.embeddings import Embeddings
from ipt.readout.linear_classifier import fit_linear
from ipt.readout.readout import SHARPNESS, Readout, fit_readout
from tests.support.clusters import C, H, clusters


def test_a_readout_blends_the_logits_of_both_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ipt.readout.embeddings", "ipt.readout.readout"):
        monkeypatch.setattr(f"{module}.PROMPTED_SHARE", 0.7)
    prompted, classes = clusters(spread=0.2)
    frozen, _ = clusters(spread=0.4, seed=1)
    both = Embeddings(prompted, frozen)
    side_by_side = torch.cat([0.7**0.5 * prompted, 0.3**0.5 * frozen], dim=1)
    baseline = fit_linear(frozen, classes, C)
    expected = 0.4 * fit_linear(side_by_side, classes, C).logits(side_by_side) + 0.6 * baseline.logits(frozen)
    for known_baseline in (None, baseline):
        logits = fit_readout(both, classes, C, 0.4, baseline=known_baseline).logits(both).double() / SHARPNESS
        torch.testing.assert_close(logits, expected, atol=0.03, rtol=0)  # the error of eight-bit weights


def test_a_label_name_is_an_example_of_the_prompted_classifier_only() -> None:
    rows, classes = clusters(spread=0.2)
    other, _ = clusters(spread=0.4, seed=1)
    both = Embeddings(rows, other)
    names = Embeddings(other[:C].roll(1, 0), rows[:C].roll(1, 0))
    named = torch.cat([both.features(), names.features()])
    expected = 0.9 * fit_linear(named, torch.cat([classes, torch.arange(C)]), C).logits(both.features())
    expected += 0.1 * fit_linear(other, classes, C).logits(other)
    logits = fit_readout(both, classes, C, 0.9, names).logits(both).double() / SHARPNESS
    torch.testing.assert_close(logits, expected, atol=0.03, rtol=0)  # the error of eight-bit weights
    without = fit_readout(both, classes, C, 0.9).logits(both).double() / SHARPNESS
    assert (logits - without).abs().max() > 0.1, "the names must change the logits, or this test shows nothing"


def test_separated_classes_are_predicted_without_error() -> None:
    rows, classes = clusters(spread=0.05)
    embeddings = Embeddings(rows, rows)
    assert (fit_readout(embeddings, classes, C, 0.5).logits(embeddings).argmax(1) == classes).all()


def test_a_readout_survives_the_round_trip_through_bytes() -> None:
    rows, classes = clusters(spread=0.2)
    embeddings = Embeddings(rows, rows.flip(1))
    readout = fit_readout(embeddings, classes, C, 0.5)
    data = readout.to_bytes()
    plain = save({"weights": readout.weights, "row_scale": readout.row_scale, "bias": readout.bias})
    for stored in (data, plain):
        loaded = Readout.from_bytes(stored, C, H)
        np.testing.assert_array_equal(loaded.logits(embeddings), readout.logits(embeddings))


def test_a_readout_of_realistic_shape_has_fewer_bytes_than_weights() -> None:
    """The weights of the two embeddings differ in size, as they do where a prompt helps a little."""
    hidden_size = 384
    weights = torch.randn(6, 2 * hidden_size, generator=torch.Generator().manual_seed(0))
    weights[:, :hidden_size] *= 0.1
    scale = weights.abs().amax(dim=1) / 127
    readout = Readout((weights / scale[:, None]).round().to(torch.int8), scale, torch.zeros(6))
    assert len(readout.to_bytes()) < 0.85 * weights.numel()


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights": torch.zeros(C, 2 * H, dtype=torch.int8)},
        {"weights": torch.zeros(C, 2 * H), "row_scale": torch.ones(C), "bias": torch.ones(C)},
        {"weights": torch.zeros(C, H, dtype=torch.int8), "row_scale": torch.ones(C), "bias": torch.ones(C)},
        {"weights": torch.zeros(C + 1, 2 * H, dtype=torch.int8), "row_scale": torch.ones(C), "bias": torch.ones(C)},
        {
            "weights": torch.zeros(C, 2 * H, dtype=torch.int8),
            "row_scale": torch.full((C,), torch.nan),
            "bias": torch.ones(C),
        },
    ],
    ids=["missing tensors", "not eight bits", "wrong width", "wrong number of classes", "NaN"],
)
def test_a_readout_with_wrong_tensors_is_rejected(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError):
        Readout.from_bytes(save(tensors), C, H)


COMPRESSED = zlib.compress(save({"weights": torch.zeros(C, 2 * H, dtype=torch.int8)}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        (10**9).to_bytes(8, "little") + b"{}",
        COMPRESSED[:-20],
        COMPRESSED[:20] + b"\xff" * 20 + COMPRESSED[40:],
        zlib.compress(save({"weights": torch.zeros(10**6, dtype=torch.int8)})),  # unpacked up to a limit only
    ],
    ids=["empty", "random", "wrong length", "truncated", "changed", "too long"],
)
def test_a_damaged_readout_is_rejected(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="not readable"):
        Readout.from_bytes(data, C, H)
