"""The readout of an encoder task: the linear classifier that turns embeddings into label scores.

It blends two multinomial logistic regressions; in a multi-label task, those of each label. One is fitted to the
prompted and the frozen embedding side by side, and the name of each label is one more example of it. The other is
fitted to the frozen embedding; it is the baseline that every task is compared with. Both fits are convex, so they
depend on the examples and names only. A blend of the logits of two linear classifiers is one linear classifier, and
that is what is stored. Cross-validation decides the weight of each. docs/decisions/0001, 0008, 0015 and 0080 list the
alternatives.

Letters: B rows, N examples, C classes or labels, H hidden size.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ipt.errors import CheckpointError
from ipt.readout.embeddings import PROMPTED_SHARE, Embeddings, with_names
from ipt.readout.linear_classifier import LinearClassifier, fit_linear

SHARPNESS = 3.0
"""Factor on the logits of a fit, for scores and for evidence: with this penalty on vectors of unit length a classifier
is underconfident (docs/decisions/0032)."""
WEIGHTS_AT_ONCE = 2**22
"""Most weights of different readouts that are converted to floats together."""
_MAX_EXTRA_BYTES = 1024
"""Upper bound on the bytes that a stored readout has for each class besides its weights."""


@dataclass(frozen=True)
class Readout:
    """A linear classifier of embeddings with eight-bit weights.

    `weights` [C, 2H] int8 apply to the unscaled embeddings, first the prompted, then the frozen one; `row_scale` [C],
    `bias` [C]. `thresholds` [C] are the logits from which the labels of a multi-label task are answered.
    """

    weights: Tensor
    row_scale: Tensor
    bias: Tensor
    thresholds: Tensor | None = field(default=None)

    def logits(self, embeddings: Embeddings) -> Tensor:
        """Return logits [B, C]."""
        features = torch.cat([embeddings.prompted, embeddings.frozen], dim=1)
        return (features @ self.weights.float().mT) * self.row_scale + self.bias

    def to_bytes(self) -> bytes:
        """Return safetensors in a zlib stream; most weights are small, so it is usually shorter than C · 2H bytes."""
        tensors = {"weights": self.weights, "row_scale": self.row_scale, "bias": self.bias}
        if self.thresholds is not None:
            tensors["thresholds"] = self.thresholds
        data: bytes = save_safetensors(tensors)
        stream = zlib.compressobj(strategy=zlib.Z_FILTERED)  # for data with few repeated sequences
        return stream.compress(data) + stream.flush()

    @classmethod
    def from_bytes(cls, data: bytes, num_classes: int, hidden_size: int) -> Readout:
        """Read the bytes of `to_bytes`, or uncompressed safetensors, the format of earlier versions.

        Raises:
            CheckpointError: the bytes are not a readout of that many classes and that hidden size.
        """
        try:
            tensors = load_safetensors(_inflate(data, (num_classes + 1) * (2 * hidden_size + _MAX_EXTRA_BYTES)))
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"the readout is not readable: {error}") from None
        expected = {"weights": (num_classes, 2 * hidden_size), "row_scale": (num_classes,), "bias": (num_classes,)}
        if "thresholds" in tensors:
            expected["thresholds"] = (num_classes,)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != expected:
            raise CheckpointError(f"a readout of {num_classes} classes has tensors {expected}, got {shapes}")
        weights = tensors.pop("weights")
        if weights.dtype != torch.int8 or not all(tensor.is_floating_point() for tensor in tensors.values()):
            types = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
            raise CheckpointError(
                f"the readout must have int8 weights, and floats besides, got weights {weights.dtype}, {types}"
            )
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise CheckpointError("the readout contains values that are not finite")
        return cls(weights, **{name: tensor.float() for name, tensor in tensors.items()})

    def with_thresholds(self, thresholds: Tensor) -> Readout:
        """Return the readout of a multi-label task, whose labels are answered from the logits `thresholds` [C] on."""
        return replace(self, thresholds=thresholds.float())


def _inflate(data: bytes, max_bytes: int) -> bytes:
    """Return the first `max_bytes` bytes of a zlib stream, or `data` itself if it is not a zlib stream."""
    try:
        return zlib.decompressobj().decompress(data, max_bytes)
    except zlib.error:
        return data


class StackedReadouts:
    """One readout for each of B rows, all of C classes; the weights are prepared before the embeddings arrive."""

    def __init__(self, readouts: Sequence[Readout]) -> None:
        at_once = max(1, WEIGHTS_AT_ONCE // readouts[0].weights.numel())
        self._parts = [readouts[start : start + at_once] for start in range(0, len(readouts), at_once)]
        self._first_stack = _stack(self._parts[0])  # stacking every part now would only take memory

    def logits(self, embeddings: Embeddings) -> Tensor:
        """Return logits [B, C]."""
        features = torch.cat([embeddings.prompted, embeddings.frozen], dim=1)
        logits = []
        start = 0
        for number, part in enumerate(self._parts):
            weights, row_scale, bias = self._first_stack if number == 0 else _stack(part)
            rows, start = features[start : start + len(part)], start + len(part)
            logits.append((weights @ rows[:, :, None])[:, :, 0] * row_scale + bias)
        return torch.cat(logits)


def _stack(readouts: Sequence[Readout]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights [B, C, 2H], row scales [B, C] and biases [B, C] of several readouts, as floats."""
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
    """Fit a readout to examples; all tensors are on the CPU.

    Args:
        embeddings: of N examples.
        classes: [N], the class of each example, or [N, C], its labels.
        num_classes: C.
        blend: weight of the classifier on both embeddings, from 0 to 1; the classifier on frozen ones has the rest.
        names: embeddings of the C label names, if they are examples too.
        baseline: the result of `fit_linear` on the frozen embeddings, if the caller has it already.
    """
    on_both = fit_linear(*with_names(embeddings.features(), classes, names), num_classes)
    on_frozen = baseline or fit_linear(embeddings.frozen, classes, num_classes)
    prompted, frozen = on_both.weight.chunk(2, dim=1)
    weights = torch.cat(
        [
            blend * math.sqrt(PROMPTED_SHARE) * prompted,
            blend * math.sqrt(1.0 - PROMPTED_SHARE) * frozen + (1.0 - blend) * on_frozen.weight,
        ],
        dim=1,
    )
    bias = blend * on_both.bias + (1.0 - blend) * on_frozen.bias
    return quantized(SHARPNESS * weights, SHARPNESS * bias)


def quantized(weights: Tensor, bias: Tensor) -> Readout:
    """Return the linear map of `weights` [C, 2H] and `bias` [C] with eight-bit weights."""
    row_scale = weights.abs().amax(dim=1).clamp_min(1e-12) / 127.0
    rounded = torch.round(weights / row_scale[:, None]).to(torch.int8)
    return Readout(rounded.contiguous(), row_scale.float(), bias.float())
