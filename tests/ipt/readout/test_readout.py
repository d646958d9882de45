"""The readout: fitted, stored in eight bits, and refused when damaged."""

import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.nn.functional import normalize

from ipt.errors import CheckpointError
from ipt.readout import readout as module
from ipt.readout.readout import (
    SHARPNESS,
    CrossValidation,
    Embeddings,
    Readout,
    cross_validation_folds,
    fit_linear,
    fit_readout,
)

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
    fitted = fit_linear(rows, classes, C).logits(rows)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (fitted, expected)]
    torch.testing.assert_close(centred[0], centred[1], atol=1e-4, rtol=0)


def test_a_readout_blends_the_logits_of_both_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROMPTED_SHARE", 0.7)
    prompted, classes = clusters(spread=0.2)
    frozen, _ = clusters(spread=0.4, seed=1)
    both = Embeddings(prompted, frozen)
    side_by_side = torch.cat([0.7**0.5 * prompted, 0.3**0.5 * frozen], dim=1)
    baseline = fit_linear(frozen, classes, C)
    expected = 0.4 * fit_linear(side_by_side, classes, C).logits(side_by_side) + 0.6 * baseline.logits(frozen)
    for given in (None, baseline):
        logits = fit_readout(both, classes, C, 0.4, baseline=given).logits(both).double() / SHARPNESS
        torch.testing.assert_close(logits, expected, atol=0.03, rtol=0)  # eight bits a weight


def test_a_labels_name_is_one_more_example_of_it_behind_the_prompt_alone() -> None:
    rows, classes = clusters(spread=0.2)
    other, _ = clusters(spread=0.4, seed=1)
    both = Embeddings(rows, other)
    names = Embeddings(other[:C].roll(1, 0), rows[:C].roll(1, 0))
    named = torch.cat([both.features(), names.features()])
    expected = 0.9 * fit_linear(named, torch.cat([classes, torch.arange(C)]), C).logits(both.features())
    expected += 0.1 * fit_linear(other, classes, C).logits(other)
    found = fit_readout(both, classes, C, 0.9, names).logits(both).double() / SHARPNESS
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)  # eight bits a weight
    without = fit_readout(both, classes, C, 0.9).logits(both).double() / SHARPNESS
    assert (found - without).abs().max() > 0.1, "names that change nothing show nothing"


def test_separated_classes_are_read_without_error() -> None:
    rows, classes = clusters(spread=0.05)
    embeddings = Embeddings(rows, rows)
    assert (fit_readout(embeddings, classes, C, 0.5).logits(embeddings).argmax(1) == classes).all()


def test_more_examples_than_features_and_fewer_are_both_fitted() -> None:
    rows, classes = clusters(spread=0.2)
    for count in (C, len(rows)):
        fitted = fit_linear(rows[:count], classes[:count], C)
        assert fitted.weight.shape == (C, H)
        assert (fitted.logits(rows[:count]).argmax(1) == classes[:count]).all()


def test_a_large_fit_is_as_good_as_an_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, classes = clusters(spread=0.3)
    exact = fit_linear(rows, classes, C)
    monkeypatch.setattr(module, "LARGE_FIT", len(rows) * C - 1)
    quick = fit_linear(rows, classes, C)
    assert quick.weight.dtype == exact.weight.dtype == torch.double
    assert not torch.equal(quick.weight, exact.weight), "both were fitted in double precision"
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (quick.logits(rows), exact.logits(rows))]
    torch.testing.assert_close(centred[0], centred[1], atol=0.01, rtol=0)  # eight bits a weight lose more
    monkeypatch.setattr(module, "LARGE_FIT", len(rows) * C)
    assert torch.equal(fit_linear(rows, classes, C).weight, exact.weight)


def test_folds_share_out_every_class_and_never_leave_out_a_classes_only_example() -> None:
    folds = cross_validation_folds(torch.tensor([0] * 7 + [1] * 5 + [2]), 5)
    assert folds[-1] == -1
    for rows in (folds[:7], folds[7:12]):
        counts = torch.bincount(rows, minlength=5)
        assert counts.max() - counts.min() <= 1
        assert len(counts) == 5


def test_cross_validation_finds_the_prompt_that_tells_the_classes_apart() -> None:
    frozen, classes = clusters(spread=0.4, seed=1)
    likelihood = CrossValidation(frozen, classes, C, 5)
    clear, blurred = (Embeddings(clusters(spread, seed=2)[0], frozen) for spread in (0.1, 2.0))
    assert likelihood.prompted(clear) > likelihood.baseline > likelihood.prompted(blurred)
    # The mean example of each class names it well, and that of its neighbour badly.
    means = torch.stack([clear.features()[classes == c].mean(dim=0) for c in range(C)])
    good = Embeddings(*normalize(means.unflatten(1, (2, H)), dim=2).unbind(1))
    bad = Embeddings(good.prompted.roll(1, 0), good.frozen.roll(1, 0))
    assert likelihood.prompted(clear, good) > likelihood.prompted(clear) > likelihood.prompted(clear, bad)


def test_large_fits_are_cross_validated_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, classes = clusters(spread=0.6, seed=1)
    embeddings = Embeddings(clusters(spread=0.3, seed=2)[0], frozen)
    names = embeddings.rows(slice(C))
    for given in (None, names):
        exact = CrossValidation(frozen, classes, C, 5).prompted(embeddings, given)
        with monkeypatch.context() as patched:
            patched.setattr(module, "LARGE_FIT", 0)
            quick = CrossValidation(frozen, classes, C, 5).prompted(embeddings, given)
        assert quick == pytest.approx(exact, abs=0.05)


def test_what_was_left_out_was_not_seen() -> None:
    """Labels at random can be learned by heart, but not guessed."""
    frozen, classes = clusters(spread=0.1)
    random = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))]
    likelihood = CrossValidation(frozen, random, C, 5)
    assert max(likelihood.baseline, likelihood.prompted(Embeddings(frozen, frozen))) < -len(classes) * np.log(C)


def test_nothing_is_compared_where_no_class_has_two_examples() -> None:
    rows = clusters(spread=0.1)[0][:C]
    likelihood = CrossValidation(rows, torch.arange(C), C, 5)
    assert likelihood.prompted(Embeddings(rows, rows)) == likelihood.baseline == 0.0


def test_features_are_unit_vectors_of_both_embeddings() -> None:
    rows, _ = clusters(spread=0.2)
    other, _ = clusters(spread=0.2, seed=1)
    features = Embeddings(rows, other).features()
    assert features.shape == (len(rows), 2 * H)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(rows)))
    assert not torch.equal(features, Embeddings(rows, rows).features())


def test_eight_bits_survive_the_round_trip() -> None:
    rows, classes = clusters(spread=0.2)
    embeddings = Embeddings(rows, rows.flip(1))
    readout = fit_readout(embeddings, classes, C, 0.5)
    data = readout.to_bytes()
    plain = save({"weights": readout.weights, "row_scale": readout.row_scale, "bias": readout.bias})
    for kept in (data, plain):
        loaded = Readout.from_bytes(kept, C, H)
        np.testing.assert_array_equal(loaded.logits(embeddings), readout.logits(embeddings))


def test_the_bytes_of_real_shapes_are_fewer_than_the_weights() -> None:
    """Weights of the two embeddings differ in size, as they do where a prompt helps a little."""
    wide, most = 384, 127
    weights = torch.randn(6, 2 * wide, generator=torch.Generator().manual_seed(0))
    weights[:, :wide] *= 0.1
    scale = weights.abs().amax(dim=1) / most
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
    ids=["tensors missing", "not eight bits", "other width", "other classes", "NaN"],
)
def test_tensors_that_are_no_readout_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError):
        Readout.from_bytes(save(tensors), C, H)


DEFLATED = zlib.compress(save({"weights": torch.zeros(C, 2 * H, dtype=torch.int8)}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        (10**9).to_bytes(8, "little") + b"{}",
        DEFLATED[:-20],
        DEFLATED[:20] + b"\xff" * 20 + DEFLATED[40:],
        zlib.compress(
            save({"weights": torch.zeros(10**6, dtype=torch.int8)})
        ),  # of which no more is unpacked than fits
    ],
    ids=["nothing", "anything", "no such length", "cut off", "changed", "far too long"],
)
def test_bytes_that_are_no_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="not readable"):
        Readout.from_bytes(data, C, H)
