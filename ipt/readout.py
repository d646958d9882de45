"""The readout of an encoder task: what turns its embeddings into label scores, fitted in closed form.

It is a ridge classifier on the prompted embedding, or on the prompted and the frozen embedding side by side, that has
seen the examples and, as weighted extra examples, the class names. Its three choices (side by side or not, λ, the
weight of the names) and the scale that makes scores probabilities are those of least leave-one-out loss.

Letters: B rows, N examples, C classes, H hidden size, F features (H, or 2H side by side).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.nn import functional as F

from ipt.errors import CheckpointError
from ipt.ridge import RidgePath, class_targets

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
NAME_WEIGHTS = (0.0, 0.5, 2.0)
SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)


@dataclass(frozen=True)
class Embeddings:
    """Unit-length embeddings of the same rows behind a task's prompt [B, H] and, where wanted, without it [B, H]."""

    prompted: Tensor | None
    frozen: Tensor | None = None

    def features(self, side_by_side: bool) -> Tensor:
        """[B, F]: a unit vector again."""
        if self.prompted is None:
            assert self.frozen is not None
            return self.frozen
        if not side_by_side:
            return self.prompted
        assert self.frozen is not None
        return torch.cat([self.prompted, self.frozen], dim=1) * math.sqrt(0.5)

    def rows(self, index: Sequence[int] | Tensor) -> Embeddings:
        """The same for some of the rows."""
        picked = torch.as_tensor(index)
        return Embeddings(
            None if self.prompted is None else self.prompted[picked],
            None if self.frozen is None else self.frozen[picked],
        )


@dataclass(frozen=True)
class Readout:
    """A linear classifier, its weights in eight bits: `weight` [C, F] int8, `row_scale` [C], `bias` [C]."""

    weight: Tensor
    row_scale: Tensor
    bias: Tensor
    side_by_side: bool
    loss: float = math.nan
    """Leave-one-out negative log-likelihood of the examples it was fitted on, nats an example."""
    accuracy: float = math.nan
    """Leave-one-out accuracy on them."""
    _dense: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_dense", self.weight.float() * self.row_scale[:, None])

    @property
    def num_classes(self) -> int:
        return self.weight.shape[0]

    def logits(self, embeddings: Embeddings) -> Tensor:
        """[B, C]."""
        features = embeddings.features(self.side_by_side)
        return features @ self._dense.to(features).mT + self.bias.to(features)

    def to_bytes(self) -> bytes:
        """Safetensors bytes, about C · F of them."""
        tensors = {"weight": self.weight, "row_scale": self.row_scale, "bias": self.bias}
        data: bytes = save_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()})
        return data

    @classmethod
    def from_bytes(cls, data: bytes, num_classes: int, hidden_size: int) -> Readout:
        """Read what `to_bytes` wrote.

        Raises:
            CheckpointError: when the bytes are no readout for that many classes and that hidden size.
        """
        try:
            tensors = load_safetensors(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"the readout is not readable: {error}") from None
        if set(tensors) != {"weight", "row_scale", "bias"}:
            raise CheckpointError(f"a readout has weight, row_scale and bias, found {sorted(tensors)}")
        weight, row_scale, bias = tensors["weight"], tensors["row_scale"], tensors["bias"]
        width = weight.shape[1] if weight.dim() == 2 else 0
        if (
            weight.dtype != torch.int8
            or tuple(weight.shape) not in ((num_classes, hidden_size), (num_classes, 2 * hidden_size))
            or row_scale.shape != (num_classes,)
            or bias.shape != (num_classes,)
        ):
            raise CheckpointError(
                f"a readout of {num_classes} classes on hidden size {hidden_size} cannot have a "
                f"{weight.dtype} weight of {list(weight.shape)}"
            )
        if not (torch.isfinite(row_scale).all() and torch.isfinite(bias).all()):
            raise CheckpointError("the readout holds values that are not finite")
        return cls(weight, row_scale.float(), bias.float(), side_by_side=width == 2 * hidden_size)


def fit_readout(
    embeddings: Embeddings,
    classes: Tensor,
    num_classes: int,
    names: Embeddings | None = None,
    side_by_side: Sequence[bool] = (True,),
) -> Readout:
    """Fit a readout to examples, choosing λ, the weight of the class names and the scale by leave-one-out loss.

    Args:
        embeddings: of the N examples.
        classes: [N], the class of each.
        num_classes: C.
        names: embeddings of the C class names, in order; None leaves them out.
        side_by_side: the kinds of features to choose from.
    """
    count = len(classes)
    targets = class_targets(classes, num_classes)
    best: tuple[float, float, Tensor, bool] | None = None
    for beside, name_weight in itertools.product(side_by_side, NAME_WEIGHTS if names is not None else (0.0,)):
        features, wanted = embeddings.features(beside), targets
        weights = torch.ones(count, device=features.device)
        if names is not None and name_weight > 0:
            features = torch.cat([features, names.features(beside)])
            wanted = torch.cat([targets, class_targets(torch.arange(num_classes, device=classes.device), num_classes)])
            weights = torch.cat([weights, torch.full((num_classes,), name_weight, device=weights.device)])
        path = RidgePath.of(features, wanted, weights)
        for ridge in RIDGES:
            scores = path.leave_one_out(ridge)[:count]
            for scale in SCALES:
                loss = F.cross_entropy(scale * scores, classes).item()
                if best is None or loss < best[0] - 1e-6:
                    accuracy = (scores.argmax(dim=1) == classes).float().mean().item()
                    best = (loss, accuracy, scale * path.weights(ridge), beside)
    assert best is not None
    loss, accuracy, solution, beside = best
    weight, bias = solution[:, :-1].cpu(), solution[:, -1].cpu()
    row_scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127.0
    rounded = torch.round(weight / row_scale[:, None]).to(torch.int8)
    return Readout(rounded, row_scale, bias.contiguous(), beside, loss, accuracy)
