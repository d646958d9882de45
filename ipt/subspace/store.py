"""Save and load a subspace: `subspace.safetensors` and `subspace.json` in one folder, checked strictly.

Two hashes protect the files. `subspace_id` covers everything that changes what a task vector means, and a vector is
used only with the subspace whose id it carries. `tensors_sha256` covers the whole tensor file, including the initial
vectors and the training tasks' vectors, which the id leaves out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ipt.backbones.interface import Backbone
from ipt.backbones.weight_files import hash_files
from ipt.errors import SubspaceError
from ipt.subspace.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    SHAPE_FIELDS,
    SHARED_PROMPT,
    TENSORS_FILE,
    read_manifest,
    subspace_id,
)
from ipt.subspace.prompt_decoder import SubspaceDecoder, SubspaceEncoder
from ipt.subspace.shipped import default_folder
from ipt.subspace.subspace import Subspace

MAX_INITIAL_VECTORS = 64
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def save_subspace(
    folder: Path,
    decoder: SubspaceDecoder,
    backbone: Backbone,
    *,
    initial_vectors: Tensor | None = None,
    encoder: SubspaceEncoder | None = None,
    task_vectors: Tensor | None = None,
    training: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> Subspace:
    """Write a subspace to `folder` and return it as it loads from there, rounded to `dtype`.

    Args:
        folder: where to write; created if missing.
        decoder: the trained decoder.
        backbone: the backbone that the decoder was trained on, with its shared prompt if it has one.
        initial_vectors: [K, D] vectors where tuning may start; the zero vector when None.
        encoder: needed only to compress prompts to vectors.
        task_vectors: [N, D] vectors of the training tasks, in the order of ``training["tasks"]``.
        training: free-form record for the manifest: method, options, tasks, scores.
        dtype: floating-point type in the file.

    Raises:
        SubspaceError: a tensor has values that are not finite in `dtype`.
    """
    tensors = {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    if encoder is not None:
        tensors |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    tensors["initial_vectors"] = torch.zeros(1, decoder.intrinsic_dim) if initial_vectors is None else initial_vectors
    if task_vectors is not None:
        tensors["task_vectors"] = task_vectors
    if backbone.shared_prompt is not None:
        tensors[SHARED_PROMPT] = backbone.shared_prompt
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in tensors.items()}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise SubspaceError(f"{name} holds values that are not finite as {dtype}: the fit diverged")
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "intrinsic_dim": decoder.intrinsic_dim,
        "decoder_hidden": decoder.decoder_hidden,
        "prompt_length": decoder.prompt_length,
        "hidden_size": decoder.hidden_size,
        "backbone": {
            "family": backbone.family,
            "id": backbone.identity.id,
            "revision": backbone.identity.revision,
            "weights_sha256": backbone.identity.weights_sha256,
        },
        "prompt_placement": backbone.prompt_placement,
        "template": backbone.template,
        "training": training or {},
    }
    manifest["subspace_id"] = subspace_id(manifest, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS_FILE).write_bytes(save(tensors))
    manifest["tensors_sha256"] = hash_files([folder / TENSORS_FILE])
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n")
    return load_subspace(folder, backbone)


def load_subspace(spec: str | Path = "default", backbone: Backbone | None = None) -> Subspace:
    """Load the packaged subspace (``"default"``) or the one in a folder, onto the backbone's device.

    Raises:
        SubspaceError: a file is missing or damaged, the manifest has an unsupported value, or a hash in the manifest
            does not match the tensors.
        SubspaceMismatchError: the subspace was fitted on another backbone.
    """
    if not isinstance(spec, str | Path):
        raise SubspaceError(f"expected 'default' or the path of its folder, got {type(spec).__name__}")
    weights = None if backbone is None else backbone.identity.weights_sha256
    folder = default_folder(weights) if spec == "default" else Path(spec)
    manifest = read_manifest(folder / MANIFEST_FILE)
    tensors = _read_tensors(folder / TENSORS_FILE)
    _check_tensors(folder, manifest, tensors)
    _check_hashes(folder, manifest, tensors)
    subspace = _build(manifest, tensors)
    if backbone is not None:
        subspace.check_backbone(backbone)
        subspace.decoder.to(backbone.device)
        if subspace.encoder is not None:
            subspace.encoder.to(backbone.device)
    return subspace


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SubspaceError(f"{path}: not a readable safetensors file: {error}") from None


def _expected_shapes(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that the file must hold, apart from the initial vectors."""
    dim, hidden, length, width = (manifest[name] for name in SHAPE_FIELDS)
    shapes: dict[str, tuple[int, ...]] = {
        "decoder.project.weight": (length * width, hidden or dim),
        "decoder.project.bias": (length * width,),
    }
    if hidden:
        shapes |= {"decoder.expand.weight": (hidden, dim), "decoder.expand.bias": (hidden,)}
    if _has_encoder(tensors):
        shapes |= {"encoder.compress.weight": (dim, length * width), "encoder.compress.bias": (dim,)}
    if "task_vectors" in tensors:
        shapes["task_vectors"] = (len(manifest["training"].get("tasks", [])), dim)
    return shapes


def _check_tensors(folder: Path, manifest: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    dim = manifest["intrinsic_dim"]
    starts = tensors.get("initial_vectors")
    if starts is None or starts.dim() != 2 or not 1 <= len(starts) <= MAX_INITIAL_VECTORS or starts.shape[1] != dim:
        raise SubspaceError(f"{folder}: initial_vectors must have shape [K, {dim}], K at most {MAX_INITIAL_VECTORS}")
    shapes = _expected_shapes(manifest, tensors)
    shared = tensors.get(SHARED_PROMPT)
    if shared is not None and (shared.dim() != 2 or shared.shape[1] != manifest["hidden_size"]):
        raise SubspaceError(f"{folder}: {SHARED_PROMPT} must have shape [rows, {manifest['hidden_size']}]")
    names = sorted([*shapes, "initial_vectors", *({SHARED_PROMPT} & tensors.keys())])
    if sorted(tensors) != names:
        raise SubspaceError(f"{folder}: tensors are {sorted(tensors)}, expected {names}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise SubspaceError(f"{folder}: {name} has shape {list(tensors[name].shape)}, expected {list(shape)}")
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise SubspaceError(f"{folder}: {name} is {tensor.dtype}, expected a floating-point type")
        if not torch.isfinite(tensor).all():
            raise SubspaceError(f"{folder}: {name} holds values that are not finite")


def _check_hashes(folder: Path, manifest: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    if manifest.get("subspace_id") != subspace_id(manifest, tensors):
        raise SubspaceError(
            f"{folder}: subspace_id does not match the contents: manifest and tensors were not written together"
        )
    if manifest.get("tensors_sha256") != hash_files([folder / TENSORS_FILE]):
        raise SubspaceError(
            f"{folder / TENSORS_FILE}: its sha256 does not match tensors_sha256 in {MANIFEST_FILE}: "
            "the file is damaged or belongs to another manifest; fetch both again"
        )


def _build(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> Subspace:
    dim, hidden, length, width = (manifest[name] for name in SHAPE_FIELDS)
    decoder = SubspaceDecoder(dim, hidden, length, width)
    decoder.load_state_dict(_state_of("decoder", tensors))
    encoder = None
    if _has_encoder(tensors):
        encoder = SubspaceEncoder(dim, length, width)
        encoder.load_state_dict(_state_of("encoder", tensors))
        encoder.requires_grad_(False)
    starts = tensors["initial_vectors"].float()
    vectors = tensors["task_vectors"].float() if "task_vectors" in tensors else None
    shared = tensors[SHARED_PROMPT].float() if SHARED_PROMPT in tensors else None
    return Subspace(manifest["subspace_id"], decoder.requires_grad_(False), starts, manifest, encoder, vectors, shared)


def _has_encoder(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith("encoder.") for name in tensors)


def _state_of(module: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{module}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
