"""Import subspaces from checkpoints of the reference implementation of arXiv 2110.07867.

A checkpoint is a pickled dictionary. Its entry "model" holds the encoder `prompt_W1` and the decoder's `prompt_W2` and,
with a hidden layer, `prompt_W3`. The reference calls a decoder with a hidden layer AE_type 1, a linear one AE_type 0.
Letters: D intrinsic dimension, P prompt length, H hidden size of the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipt.backbones.interface import Backbone
from ipt.errors import BackboneError, SubspaceError
from ipt.subspace.prompt_decoder import SubspaceDecoder, SubspaceEncoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace

_LAYER_NAMES = ("prompt_W1", "prompt_W2", "prompt_W3")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Layer(NamedTuple):
    """A linear layer of a checkpoint: weight [outputs, inputs] and bias [outputs]."""

    name: str
    weight: Tensor
    bias: Tensor


def import_checkpoint(checkpoint: Path, backbone: Backbone, folder: Path) -> Subspace:
    """Convert a checkpoint to a subspace in `folder`, in float32 and with its encoder.

    Only tensors are unpickled (`weights_only`), so a hostile file cannot run code.

    Raises:
        SubspaceError: the file is missing, damaged, hostile, of another form, or made for another backbone.
    """
    layers = _collect_layers(checkpoint, _read_tensors(checkpoint))
    _check_autoencoder(checkpoint, layers)
    dim, flat = layers[0].weight.shape
    if flat % backbone.hidden_size:
        raise SubspaceError(
            f"{checkpoint}: its prompts have {flat} numbers, which is no multiple of {backbone.hidden_size}, "
            f"the hidden size of {backbone.identity.id!r}: name the backbone that it was made with"
        )
    length = flat // backbone.hidden_size
    try:
        backbone.check_room(length)
    except BackboneError as error:
        raise SubspaceError(f"{checkpoint}: {error.message}; name the backbone that it was made with") from None
    hidden = layers[1].weight.shape[0] if len(layers) == 3 else 0
    encoder = SubspaceEncoder(dim, length, backbone.hidden_size)
    decoder = SubspaceDecoder(dim, hidden, length, backbone.hidden_size)
    modules = [encoder.compress, *([decoder.expand] if decoder.expand is not None else []), decoder.project]
    with torch.no_grad():
        for module, layer in zip(modules, layers, strict=True):
            module.weight.copy_(layer.weight)
            module.bias.copy_(layer.bias)
    training = {"method": "import", "source": checkpoint.name, "ae_type": int(hidden > 0)}
    return save_subspace(folder, decoder, backbone, encoder=encoder, training=training, dtype=torch.float32)


def _read_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Return the auto-encoder's tensors in the checkpoint's entry "model", by name."""
    try:
        loaded: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SubspaceError(f"{checkpoint}: not found") from None
    except UnpicklingError:
        raise SubspaceError(
            f"{checkpoint}: damaged, or holds more than tensors; it was not unpickled, because that can run any code"
        ) from None
    except Exception as error:  # noqa: BLE001 - the unpickler raises any type on bytes that are not a pickle
        raise SubspaceError(f"{checkpoint}: not a readable checkpoint ({type(error).__name__})") from None
    model = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(model, dict):
        raise SubspaceError(f'{checkpoint}: no entry "model", which a checkpoint of the reference implementation has')
    # Training on several GPUs adds the prefix.
    by_name = {str(name).removeprefix("module."): value for name, value in model.items()}
    tensors = {name: value for name, value in by_name.items() if name.partition(".")[0] in _LAYER_NAMES}
    for name, value in tensors.items():
        _check_tensor(checkpoint, name, value)
    return tensors


def _check_tensor(checkpoint: Path, name: str, value: object) -> None:
    """Check, before any arithmetic, that `value` is a dense tensor of finite numbers which the file holds in full."""
    if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
        raise SubspaceError(
            f"{checkpoint}: {name} must be a tensor of finite numbers, is of type {type(value).__name__}"
        )
    if value.layout != torch.strided or value.is_nested or value.device.type != "cpu":
        form = "nested" if value.is_nested else value.layout if value.layout != torch.strided else value.device.type
        raise SubspaceError(f"{checkpoint}: {name} is a tensor of the form {form}: save it as a plain, dense tensor")
    if value.dtype not in _DTYPES:
        raise SubspaceError(
            f"{checkpoint}: {name} is a tensor of {value.dtype}: save it as float16, bfloat16, float32 or float64"
        )
    stored = value.untyped_storage().nbytes() // value.element_size()
    if value.numel() > stored:
        raise SubspaceError(
            f"{checkpoint}: {name} has the shape {list(value.shape)}, but the file holds {stored} numbers for it: "
            "save it whole (`contiguous()`)"
        )
    if not torch.isfinite(value).all():
        raise SubspaceError(f"{checkpoint}: {name} holds NaN or infinity, expected finite numbers")


def _collect_layers(checkpoint: Path, tensors: dict[str, Tensor]) -> list[_Layer]:
    """Return the encoder's layer, then the one or two layers of the decoder, in float32."""
    present = [name for name in _LAYER_NAMES if any(key.startswith(f"{name}.") for key in tensors)]
    expected = {f"{name}.{part}" for name in present for part in ("weight", "bias")}
    if len(present) < 2 or present[:2] != list(_LAYER_NAMES[:2]) or set(tensors) != expected:
        raise SubspaceError(
            f"{checkpoint}: needs prompt_W1 and prompt_W2, and prompt_W3 for a decoder of two layers, each with "
            f"weight and bias; found {sorted(tensors) or 'no such tensor'}"
        )
    layers = [_Layer(name, tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()) for name in present]
    for name, weight, bias in layers:
        if weight.dim() != 2 or bias.shape != weight.shape[:1]:
            raise SubspaceError(
                f"{checkpoint}: {name} has weight {list(weight.shape)} and bias {list(bias.shape)}, "
                "which is not a linear layer"
            )
    return layers


def _check_autoencoder(checkpoint: Path, layers: Sequence[_Layer]) -> None:
    """Check that each layer reads what the one before writes, from prompts to vectors and back."""
    widths = [layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in layers)]
    if widths[0] != widths[-1] or any(layer.weight.shape[1] != widths[i] for i, layer in enumerate(layers)):
        shapes = ", ".join(f"{layer.name} {list(layer.weight.shape)}" for layer in layers)
        raise SubspaceError(f"{checkpoint}: these layers are not an auto-encoder of prompts: {shapes}")
    if 0 in widths:
        empty = ("prompts have", "task vectors have", "hidden layer has")[widths.index(0)]
        raise SubspaceError(f"{checkpoint}: its {empty} 0 numbers, so there is nothing to import")
    if len(layers) == 3 and widths[1] > widths[2]:
        raise SubspaceError(
            f"{checkpoint}: its bottleneck of {widths[2]} follows an encoder of two layers (AE_type 2), "
            "which is not supported; AE_type 0 and 1 are"
        )
