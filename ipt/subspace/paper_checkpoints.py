"""Subspaces of the reference implementation of arXiv 2110.07867, read from its checkpoints.

A checkpoint is a pickled dictionary whose entry "model" holds, by name, `prompt_W1` (the encoder), `prompt_W2` and, for
the decoder with a hidden layer, `prompt_W3`: AE_type 1 (linear; linear, tanh, linear) and AE_type 0 (linear; linear).
Letters: D intrinsic dimension, P prompt length, H hidden size of the backbone.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ipt.backbones.interface import Backbone
from ipt.errors import BackboneError, SubspaceError
from ipt.subspace.modules import SubspaceDecoder, SubspaceEncoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace

_LAYERS = ("prompt_W1", "prompt_W2", "prompt_W3")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def import_checkpoint(checkpoint: Path, backbone: Backbone, folder: Path) -> Subspace:
    """Rewrite a checkpoint as a subspace in `folder`: safetensors and a manifest, encoder included, in float32.

    Nothing but tensors is unpickled (`weights_only`), so a hostile file can run nothing.

    Raises:
        SubspaceError: the file is missing, damaged, hostile, of another form, or not made for this backbone.
    """
    layers = _layers(checkpoint, _tensors(checkpoint))
    encoder_layer, *decoder_layers = layers
    dim, flat = encoder_layer[0].shape
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
    hidden = decoder_layers[0][0].shape[0] if len(decoder_layers) == 2 else 0
    encoder = SubspaceEncoder(dim, length, backbone.hidden_size)
    decoder = SubspaceDecoder(dim, hidden, length, backbone.hidden_size)
    modules = [encoder.compress, *([decoder.expand] if decoder.expand is not None else []), decoder.project]
    with torch.no_grad():
        for module, (weight, bias) in zip(modules, layers, strict=True):
            module.weight.copy_(weight)
            module.bias.copy_(bias)
    training = {"method": "import", "source": checkpoint.name, "ae_type": int(hidden > 0)}
    return save_subspace(folder, decoder, backbone, encoder=encoder, training=training, dtype=torch.float32)


def _tensors(checkpoint: Path) -> dict[str, Tensor]:
    """What the checkpoint's entry "model" holds for the auto-encoder, by name."""
    try:
        loaded: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SubspaceError(f"{checkpoint}: not found") from None
    except UnpicklingError:
        raise SubspaceError(
            f"{checkpoint}: holds more than tensors, or is damaged; it was not unpickled, because that can run any code"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever the unpickler makes of bytes that are no pickle
        raise SubspaceError(f"{checkpoint}: not a readable checkpoint ({type(error).__name__})") from None
    model = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(model, dict):
        raise SubspaceError(f'{checkpoint}: no entry "model", as a checkpoint of the reference implementation has')
    # A model that was trained on several GPUs at once has the prefix.
    named = {str(name).removeprefix("module."): value for name, value in model.items()}
    tensors = {name: value for name, value in named.items() if name.partition(".")[0] in _LAYERS}
    for name, value in tensors.items():
        _check_tensor(checkpoint, name, value)
    return tensors


def _check_tensor(checkpoint: Path, name: str, value: object) -> None:
    """Whether it is a plain tensor of finite numbers, all of them in the file: looked at before it is computed with."""
    if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
        raise SubspaceError(f"{checkpoint}: {name} is no tensor of finite numbers, but of type {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested or value.device.type != "cpu":
        form = "nested" if value.is_nested else value.layout if value.layout != torch.strided else value.device.type
        raise SubspaceError(f"{checkpoint}: {name} is a tensor of the form {form}: save it as a plain, dense one")
    if value.dtype not in _DTYPES:
        raise SubspaceError(
            f"{checkpoint}: {name} is no tensor of finite numbers, but of {value.dtype}: "
            "save it as float16, bfloat16, float32 or float64"
        )
    held = value.untyped_storage().nbytes() // value.element_size()
    if value.numel() > held:
        raise SubspaceError(
            f"{checkpoint}: {name} has the shape {list(value.shape)}, but the file holds {held} numbers for it: "
            "save it whole (`contiguous()`)"
        )
    if not torch.isfinite(value).all():
        raise SubspaceError(f"{checkpoint}: {name} is no tensor of finite numbers: it holds NaN or infinity")


def _layers(checkpoint: Path, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of the encoder's layer, then of the one or two layers of the decoder, checked to fit together."""
    present = [name for name in _LAYERS if any(key.startswith(f"{name}.") for key in tensors)]
    expected = {f"{name}.{part}" for name in present for part in ("weight", "bias")}
    if len(present) < 2 or present[:2] != list(_LAYERS[:2]) or set(tensors) != expected:
        raise SubspaceError(
            f"{checkpoint}: needs prompt_W1 and prompt_W2, and prompt_W3 for a decoder of two layers, each with "
            f"weight and bias; found {sorted(tensors) or 'none of them'}"
        )
    layers = [(tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()) for name in present]
    for name, (weight, bias) in zip(present, layers, strict=True):
        if weight.dim() != 2 or bias.shape != weight.shape[:1]:
            raise SubspaceError(
                f"{checkpoint}: {name} has weight {list(weight.shape)} and bias {list(bias.shape)}, "
                "which is no linear layer"
            )
    widths = [layers[0][0].shape[1], *(weight.shape[0] for weight, _ in layers)]
    if widths[0] != widths[-1] or any(layers[i][0].shape[1] != widths[i] for i in range(len(layers))):
        shapes = ", ".join(f"{name} {list(weight.shape)}" for name, (weight, _) in zip(present, layers, strict=True))
        raise SubspaceError(f"{checkpoint}: these layers make no auto-encoder of prompts: {shapes}")
    if 0 in widths:
        empty = ("prompts have", "task vectors have", "hidden layer has")[widths.index(0)]
        raise SubspaceError(f"{checkpoint}: its {empty} 0 numbers, so there is nothing to import")
    if len(layers) == 3 and widths[1] > widths[2]:
        raise SubspaceError(
            f"{checkpoint}: its bottleneck of {widths[2]} is behind an encoder of two layers (AE_type 2), "
            "which is not supported; AE_type 0 and 1 are"
        )
    return layers
