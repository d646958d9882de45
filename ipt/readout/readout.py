"""The readout of an encoder task: the linear classifier that turns its embeddings into label scores.

It blends two multinomial logistic regressions: one on the prompted and the frozen embedding side by side, to which the
name of each label is one more example of it, and one on the frozen embedding alone, which is the baseline that every
task is measured against. Both are convex, so examples and names alone decide them. The logits of two linear classifiers
blend to those of one, which is what is stored. How much each one counts is decided by cross-validation.
docs/decisions/0001, 0008 and 0015 have what this was chosen against.

Letters: B rows, N examples, C classes, H hidden size, F features.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.nn import functional as F

from ipt.errors import CheckpointError
from ipt.readout.logistic import logistic_regressions

PROMPTED_SHARE = 0.5
"""Share of a feature vector's squared length that the prompted embedding has; the rest is the frozen one's."""
PENALTY = 1.0
"""Half of the sum of squared weights counts as much as the loss of this many examples."""
SHARPNESS = 3.0
"""What the logits of a fit are multiplied by, as scores and as evidence: with this penalty on vectors of unit length a
classifier says much less than it knows (docs/decisions/0015)."""
MAX_ITERATIONS = 200
WEIGHTS_AT_ONCE = 2**22
"""Most weights of different readouts that are unpacked together."""
_MOST_BESIDES = 1024
"""More bytes than a readout has for each class besides its weights."""
LARGE_FIT = 4096
"""Examples times classes above which a fit is one of its own, by L-BFGS, and in single precision: four times as fast
as in double, and off by less than the eight bits a weight are (docs/decisions/0001)."""


@dataclass(frozen=True)
class Embeddings:
    """Unit-length embeddings of the same rows behind a task's prompt [B, H] and without it [B, H]."""

    prompted: Tensor
    frozen: Tensor

    def __len__(self) -> int:
        return len(self.prompted)

    def rows(self, which: slice) -> Embeddings:
        """Those of some rows."""
        return Embeddings(self.prompted[which], self.frozen[which])

    def features(self) -> Tensor:
        """Side by side, [B, 2H], of unit length again."""
        return torch.cat(
            [self.prompted * math.sqrt(PROMPTED_SHARE), self.frozen * math.sqrt(1.0 - PROMPTED_SHARE)], dim=-1
        )


class LinearClassifier(NamedTuple):
    """`weight` [C, F] and `bias` [C], both double."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Features [B, F] to logits [B, C]."""
        return features.to(self.weight) @ self.weight.mT + self.bias


@dataclass(frozen=True)
class Readout:
    """A linear classifier of embeddings, its weights in eight bits.

    `weights` [C, 2H] int8 are for the prompted and then the frozen embedding as they are, unscaled; `row_scale` [C],
    `bias` [C].
    """

    weights: Tensor
    row_scale: Tensor
    bias: Tensor

    def logits(self, embeddings: Embeddings) -> Tensor:
        """[B, C]."""
        features = torch.cat([embeddings.prompted, embeddings.frozen], dim=1)
        return (features @ self.weights.float().mT) * self.row_scale + self.bias

    def to_bytes(self) -> bytes:
        """Safetensors in a zlib stream, usually of less than C · 2H bytes: most weights are small."""
        data: bytes = save_safetensors({"weights": self.weights, "row_scale": self.row_scale, "bias": self.bias})
        stream = zlib.compressobj(strategy=zlib.Z_FILTERED)  # which looks for little that occurs twice
        return stream.compress(data) + stream.flush()

    @classmethod
    def from_bytes(cls, data: bytes, num_classes: int, hidden_size: int) -> Readout:
        """Read what `to_bytes` wrote, or the safetensors bytes as they are, as they were once kept.

        Raises:
            CheckpointError: when the bytes are no readout for that many classes and that hidden size.
        """
        try:
            tensors = load_safetensors(_inflated(data, (num_classes + 1) * (2 * hidden_size + _MOST_BESIDES)))
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"the readout is not readable: {error}") from None
        expected = {"weights": (num_classes, 2 * hidden_size), "row_scale": (num_classes,), "bias": (num_classes,)}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected:
            raise CheckpointError(f"a readout of {num_classes} classes has tensors {expected}, found {found}")
        weights, row_scale, bias = (tensors[name] for name in expected)
        if weights.dtype != torch.int8 or not (row_scale.is_floating_point() and bias.is_floating_point()):
            raise CheckpointError("a readout has eight-bit weights and floating-point scales and biases")
        if not (torch.isfinite(row_scale).all() and torch.isfinite(bias).all()):
            raise CheckpointError("the readout holds values that are not finite")
        return cls(weights, row_scale.float(), bias.float())


def _inflated(data: bytes, most: int) -> bytes:
    """What a zlib stream holds, the first `most` bytes of it; `data` itself where it is no such stream."""
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return data


class StackedReadouts:
    """A readout of its own for each of B rows, all of C classes; made ready before the embeddings are there."""

    def __init__(self, readouts: Sequence[Readout]) -> None:
        at_once = max(1, WEIGHTS_AT_ONCE // readouts[0].weights.numel())
        self._parts = [readouts[start : start + at_once] for start in range(0, len(readouts), at_once)]
        self._ready = _unpacked(self._parts[0])  # more of them would only take memory

    def logits(self, embeddings: Embeddings) -> Tensor:
        """[B, C]."""
        features = torch.cat([embeddings.prompted, embeddings.frozen], dim=1)
        found = []
        rows = 0
        for number, part in enumerate(self._parts):
            weights, row_scale, bias = self._ready if number == 0 else _unpacked(part)
            own, rows = features[rows : rows + len(part)], rows + len(part)
            found.append((weights @ own[:, :, None])[:, :, 0] * row_scale + bias)
        return torch.cat(found)


def _unpacked(readouts: Sequence[Readout]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [B, C, 2H], `row_scale` [B, C] and `bias` [B, C] of several."""
    return (
        torch.stack([readout.weights for readout in readouts]).float(),
        torch.stack([readout.row_scale for readout in readouts]),
        torch.stack([readout.bias for readout in readouts]),
    )


def fit_readout(
    embeddings: Embeddings,
    classes: Tensor,
    num_classes: int,
    blend: float,
    names: Embeddings | None = None,
    baseline: LinearClassifier | None = None,
) -> Readout:
    """Fit a readout to examples, all on the CPU.

    Args:
        embeddings: of N examples.
        classes: [N], the class of each.
        num_classes: C.
        blend: weight, from 0 to 1, of the classifier on both embeddings; the one on the frozen ones has the rest.
        names: of the C labels' names, where they are examples too.
        baseline: what `fit_linear` gives for the frozen embeddings, where the caller has it already.
    """
    of_both = fit_linear(*with_names(embeddings.features(), classes, names), num_classes)
    of_frozen = baseline or fit_linear(embeddings.frozen, classes, num_classes)
    prompted, frozen = of_both.weight.chunk(2, dim=1)
    weights = torch.cat(
        [
            blend * math.sqrt(PROMPTED_SHARE) * prompted,
            blend * math.sqrt(1.0 - PROMPTED_SHARE) * frozen + (1.0 - blend) * of_frozen.weight,
        ],
        dim=1,
    )
    bias = blend * of_both.bias + (1.0 - blend) * of_frozen.bias
    weights, bias = SHARPNESS * weights, SHARPNESS * bias
    row_scale = weights.abs().amax(dim=1).clamp_min(1e-12) / 127.0
    rounded = torch.round(weights / row_scale[:, None]).to(torch.int8)
    return Readout(rounded.contiguous(), row_scale.float(), bias.float())


def with_names(features: Tensor, classes: Tensor, names: Embeddings | None) -> tuple[Tensor, Tensor]:
    """Features and classes of the examples, and behind them those of the labels' names."""
    if names is None:
        return features, classes
    return torch.cat([features, names.features()]), torch.cat([classes, torch.arange(len(names))])


def cross_validation_folds(classes: Tensor, num_folds: int) -> Tensor:
    """[N]: in which fold each example of classes [N] is left out, every class dealt out evenly.

    The only example of its class is never left out: its fold is -1.
    """
    folds = torch.full_like(classes, -1)
    for c in range(int(classes.max()) + 1):
        rows = torch.nonzero(classes == c).flatten()
        if len(rows) > 1:
            folds[rows] = (torch.arange(len(rows)) + c) % num_folds
    return folds


class CrossValidation:
    """Compares prompts by how likely they make examples to classifiers that were not fitted on them."""

    def __init__(self, frozen: Tensor, classes: Tensor, num_classes: int, num_folds: int) -> None:
        self._frozen = frozen
        self._classes = classes
        self._num_classes = num_classes
        folds = cross_validation_folds(classes, num_folds)
        self._left_out = [folds == fold for fold in sorted(set(folds.tolist()) - {-1})]

    @cached_property
    def baseline(self) -> float:
        """Of the classifier on the frozen embeddings alone: the sum over the examples left out, in nats."""
        return self._log_likelihood(self._frozen)

    def prompted(self, embeddings: Embeddings, names: Embeddings | None = None) -> float:
        """The same of the classifier on both embeddings; `names`, where they are examples, are never left out."""
        return self._log_likelihood(embeddings.features(), names)

    def _log_likelihood(self, features: Tensor, names: Embeddings | None = None) -> float:
        total = 0.0
        for left_out, logits in zip(self._left_out, self._logits(features, names), strict=True):
            total -= F.cross_entropy(SHARPNESS * logits, self._classes[left_out], reduction="sum").item()
        return total

    def _logits(self, features: Tensor, names: Embeddings | None) -> list[Tensor]:
        """Of the examples that each fold leaves out, by a classifier that is fitted on the others."""
        if not self._left_out:
            return []
        if is_large(len(features), self._num_classes):
            kept = [with_names(features[~out], self._classes[~out], names) for out in self._left_out]
            fits = [fit_linear(*examples, self._num_classes) for examples in kept]
            return [fit.logits(features[out]) for fit, out in zip(fits, self._left_out, strict=True)]
        rows, classes = with_names(features, self._classes, names)
        _, coordinates = _in_their_span(rows.double())
        counted = ~torch.stack(self._left_out)
        counted = torch.cat([counted, counted.new_ones(len(counted), len(rows) - len(features))], dim=1)
        weights, biases = logistic_regressions(coordinates, classes, self._num_classes, PENALTY, counted)
        logits = coordinates[: len(features)] @ weights.mT + biases[:, None]
        return [own[out] for own, out in zip(logits, self._left_out, strict=True)]


def fit_linear(features: Tensor, classes: Tensor, num_classes: int) -> LinearClassifier:
    """Multinomial logistic regression on features [N, F] of classes [N]: the minimum of the penalized loss."""
    if is_large(len(features), num_classes):
        basis, coordinates = _in_their_span(features.float())
        solution, bias = _by_lbfgs(coordinates, classes, num_classes)
    else:
        basis, coordinates = _in_their_span(features.double())
        (solution,), (bias,) = logistic_regressions(coordinates, classes, num_classes, PENALTY)
    return LinearClassifier((solution @ basis.mT).double(), bias.double())


def _in_their_span(features: Tensor) -> tuple[Tensor, Tensor]:
    """A basis [F, R] of the examples' span, and the examples in it [N, R].

    The weights lie in it, and for a few-shot task it is much smaller than F.
    """
    basis, coordinates = torch.linalg.qr(features.mT)
    return basis, coordinates.mT.contiguous()


def is_large(num_examples: int, num_classes: int) -> bool:
    """Whether a fit takes so long that precision is traded for speed."""
    return num_examples * num_classes > LARGE_FIT


def _by_lbfgs(features: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """What one of `logistic_regressions` gives, whose bound on the curvature is far from it for many classes."""
    weight = features.new_zeros(num_classes, features.shape[1]).requires_grad_(True)
    bias = features.new_zeros(num_classes).requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe"
    )

    def objective() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.mT + bias, classes, reduction="sum")
        loss = loss + 0.5 * PENALTY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
