"""The manifest of a subspace, `subspace.json`: reading and checking it, and the hash that is the subspace's id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ipt.backbones.interface import PLACEMENTS, PLAIN_TEMPLATE
from ipt.errors import SubspaceError

FORMAT_VERSION = 1
TENSORS_FILE = "subspace.safetensors"
MANIFEST_FILE = "subspace.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
SHARED_PROMPT = "shared_prompt"
"""Name of the tensor of `Subspace.shared_prompt`."""
SHAPE_FIELDS = ("intrinsic_dim", "decoder_hidden", "prompt_length", "hidden_size")
MAX_SHAPE = 1_000_000
MAX_READOUT_CONSTANT = 1e6


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest and check every field that other code relies on.

    Raises:
        SubspaceError: the file is missing or damaged, a field has a wrong value, or the subspace was made for a
            placement, template or family that this version does not support.
    """
    manifest = _read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version") if isinstance(manifest, dict) else type(manifest).__name__
        raise SubspaceError(f"{path}: expected format version {FORMAT_VERSION}, found {found!r}")
    _check_shapes(path, manifest)
    _check_backbone(path, manifest)
    _check_storable(path, manifest)
    _check_training(path, manifest.get("training"))
    return manifest


def subspace_id(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of everything that changes what a task vector means.

    It covers the decoder, the shared prompt, the shapes, the hash of the backbone's weights, the prompt placement and
    the template.
    """
    digest = hashlib.sha256()
    meaning = {name: manifest.get(name) for name in ("format_version", *SHAPE_FIELDS, "prompt_placement", "template")}
    meaning["weights_sha256"] = manifest["backbone"]["weights_sha256"]
    digest.update(json.dumps(meaning, sort_keys=True).encode())
    for name in sorted(tensors):
        if name.startswith("decoder.") or name == SHARED_PROMPT:
            # Always little-endian float32, so that the id does not depend on the dtype in the file.
            digest.update(name.encode() + tensors[name].float().numpy().astype("<f4").tobytes())
    return f"sub_{digest.hexdigest()[:24]}"


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise SubspaceError(f"{path}: a manifest has at most {MAX_MANIFEST_BYTES} bytes, this file is larger")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubspaceError(
            f"{path}: not found; a subspace is a folder with {MANIFEST_FILE} and {TENSORS_FILE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SubspaceError(f"{path}: not a readable manifest: {error}") from None


def _check_shapes(path: Path, manifest: dict[str, Any]) -> None:
    for name in SHAPE_FIELDS:
        value = manifest.get(name)
        minimum = 0 if name == "decoder_hidden" else 1
        if type(value) is not int or not minimum <= value <= MAX_SHAPE:
            raise SubspaceError(f"{path}: {name} must be an integer from {minimum} to {MAX_SHAPE}, found {value!r}")


def _check_backbone(path: Path, manifest: dict[str, Any]) -> None:
    backbone = manifest.get("backbone")
    names = ("family", "id", "weights_sha256")
    if not isinstance(backbone, dict) or not all(isinstance(backbone.get(name), str) for name in names):
        raise SubspaceError(f"{path}: backbone must have the strings family, id and weights_sha256")
    # Vectors made for any other value would be used in a way that they were not tuned for.
    for name, value, supported in (
        ("backbone.family", backbone["family"], tuple(PLACEMENTS)),
        ("prompt_placement", manifest.get("prompt_placement"), PLACEMENTS.get(backbone["family"], ())),
    ):
        if value not in supported:
            expected = " or ".join(map(repr, supported))
            raise SubspaceError(f"{path}: {name} must be {expected} for this version of ipt, found {value!r}")
    template = manifest.get("template")
    if manifest["prompt_placement"] == "user_turn":
        valid = isinstance(template, str) and "{prompt}" in template and "{input}" in template
        expected = "a text with {prompt} and {input}"
    elif (backbone["family"], manifest["prompt_placement"]) == ("causal", "every_layer"):
        valid, expected = isinstance(template, str) and "{input}" in template, "a text with {input}"
    else:
        valid, expected = template == PLAIN_TEMPLATE, repr(PLAIN_TEMPLATE)
    if not valid:
        raise SubspaceError(f"{path}: template must be {expected} for this version of ipt, found {template!r}")


def _check_storable(path: Path, manifest: dict[str, Any]) -> None:
    """Check that PostgreSQL can store the manifest and that JSON can carry it."""
    try:
        storable = "\\u0000" not in json.dumps(manifest, allow_nan=False)
        json.dumps(manifest, ensure_ascii=False).encode()
    except ValueError:
        storable = False
    if not storable:
        raise SubspaceError(f"{path}: holds a NUL character, a lone surrogate or a number that is not finite")


def _check_training(path: Path, training: object) -> None:
    if not isinstance(training, dict):
        raise SubspaceError(f"{path}: training must be an object, found {type(training).__name__}")
    for name, kind in (("options", dict), ("tasks", list), ("rows", list)):
        if not isinstance(training.get(name, kind()), kind):
            raise SubspaceError(f"{path}: training.{name} must be a {kind.__name__} if present")
    constants = training.get("readout", {"ridge": 1.0, "scale": 1.0})
    if not isinstance(constants, dict) or not all(map(_is_constant, map(constants.get, ("ridge", "scale")))):
        raise SubspaceError(f"{path}: training.readout must have ridge and scale, each a positive number")


def _is_constant(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < MAX_READOUT_CONSTANT
