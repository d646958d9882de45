"""A subspace on disk and in memory: `subspace.safetensors` and `subspace.json` in one folder, strictly checked.

`subspace_id` is a hash over all that changes what a task vector means: the decoder's numbers, the shapes, the
backbone's weights and where the prompt is placed. A vector is used only with the subspace whose id it carries. What
the id leaves out (where tuning may start, the fitted tasks' vectors) is under `tensors_sha256`, a hash of the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ipt.backbones.interface import PLACEMENTS, Backbone, prompt_identity
from ipt.backbones.weight_files import hash_files
from ipt.errors import SubspaceError, SubspaceMismatchError
from ipt.subspace.modules import PromptDecoder, SubspaceDecoder, SubspaceEncoder

FORMAT_VERSION = 1
TENSORS_FILE = "subspace.safetensors"
MANIFEST_FILE = "subspace.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
TEMPLATE = "{input}"
_SHAPE_FIELDS = ("intrinsic_dim", "decoder_hidden", "prompt_length", "hidden_size")
_LARGEST_CONSTANT = 1e6
_MAX_STARTS = 64
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Subspace:
    """A decoder with everything that says what its task vectors mean. Letters: K initial vectors, D, P, H."""

    id: str
    decoder: PromptDecoder
    initial_vectors: Tensor
    """[K, D]: where tuning may start. The first one is where it starts when nothing tells otherwise."""
    manifest: dict[str, Any]
    encoder: SubspaceEncoder | None = field(default=None)
    task_vectors: Tensor | None = field(default=None)
    """[N, D]: the vectors of the tasks it was found from, in the manifest's order; None when they were not kept."""

    @property
    def intrinsic_dim(self) -> int:
        return self.decoder.intrinsic_dim

    @property
    def prompt_length(self) -> int:
        return self.decoder.prompt_length

    @property
    def hidden_size(self) -> int:
        return self.decoder.hidden_size

    @property
    def prompt_identity(self) -> str:
        """That of the backbone that it makes prompts for."""
        backbone = self.manifest["backbone"]
        return prompt_identity(backbone["weights_sha256"], backbone["family"], self.manifest["prompt_placement"])

    def initial_vector_id(self, vector: NDArray[np.float32]) -> int | None:
        """A number of 63 bits for a task vector [D] that tuning left where it started, None if it moved.

        It is drawn from the vector itself: places in `initial_vectors` may change while the id stays.
        """
        starts = self.initial_vectors.float().cpu().numpy()
        equal = starts[(starts == vector).all(axis=1)]
        return int.from_bytes(hashlib.sha256(equal[0].tobytes()).digest()[:8]) >> 1 if len(equal) else None

    @torch.no_grad()
    def compress(self, prompts: Tensor) -> Tensor:
        """Soft prompts [J, P, H] of this subspace's backbone to the task vectors [J, D] that come nearest to them.

        Raises:
            SubspaceError: the subspace came without its encoder, or the prompts have another shape.
        """
        if self.encoder is None:
            raise SubspaceError(f"subspace {self.id} has no encoder, so it cannot compress prompts")
        if prompts.dim() != 3 or prompts.shape[1:] != (self.prompt_length, self.hidden_size):
            raise SubspaceError(
                f"subspace {self.id} compresses prompts of shape [J, {self.prompt_length}, {self.hidden_size}], "
                f"got {list(prompts.shape)}"
            )
        vectors: Tensor = self.encoder(prompts.float())
        return vectors

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise `SubspaceMismatchError` unless this subspace was found on exactly that backbone."""
        wanted, given = self.manifest["backbone"], backbone.identity
        if wanted["family"] != backbone.family:
            raise SubspaceMismatchError(
                f"subspace {self.id} belongs to a backbone of family {wanted['family']!r}, "
                f"{given.id!r} is of family {backbone.family!r}: load that backbone, or fit a subspace for this one"
            )
        if wanted["weights_sha256"] != given.weights_sha256:
            raise SubspaceMismatchError(
                f"subspace {self.id} belongs to backbone {wanted['id']!r} (weights {wanted['weights_sha256'][:12]}…), "
                f"not to {given.id!r} (weights {given.weights_sha256[:12]}…): "
                "load that backbone, or fit a subspace for this one"
            )
        if self.hidden_size != backbone.hidden_size:
            raise SubspaceMismatchError(
                f"subspace {self.id} makes prompts of hidden size {self.hidden_size}, "
                f"the backbone's is {backbone.hidden_size}"
            )
        placement = self.manifest["prompt_placement"]
        if placement != backbone.prompt_placement:
            raise SubspaceMismatchError(
                f"subspace {self.id} was found with prompts {placement}, this backbone reads them "
                f"{backbone.prompt_placement}: take one that is `placed({placement!r})`"
            )


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
    """Write a subspace to `folder` and give it back as it will load, with its numbers rounded to `dtype`.

    Args:
        decoder: the trained decoder.
        backbone: the one it was trained on.
        initial_vectors: [K, D] vectors where tuning may start; the zero vector when None.
        encoder: shipped only where prompts are to be compressed to vectors.
        task_vectors: [N, D] vectors of the tasks it was found from, in the order of ``training["tasks"]``.
        training: free-form record for the manifest: method, options, tasks, scores.
    """
    starts = torch.zeros(1, decoder.intrinsic_dim) if initial_vectors is None else initial_vectors
    tensors = {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    if encoder is not None:
        tensors |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    tensors["initial_vectors"] = starts
    if task_vectors is not None:
        tensors["task_vectors"] = task_vectors
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
        "template": TEMPLATE,
        "training": training or {},
    }
    manifest["subspace_id"] = _subspace_id(manifest, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS_FILE).write_bytes(save(tensors))
    manifest["tensors_sha256"] = hash_files([folder / TENSORS_FILE])
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n")
    return load_subspace(folder, backbone)


def load_subspace(spec: str | Path = "default", backbone: Backbone | None = None) -> Subspace:
    """Load the shipped subspace (``"default"``) or the one in a folder, onto the backbone's device.

    Raises:
        SubspaceError: a file is missing, damaged or hostile, made for a placement, template or family that is not
            known here, or its id or hash in the manifest is not that of the numbers.
        SubspaceMismatchError: it belongs to another backbone than `backbone`.
    """
    if not isinstance(spec, str | Path):
        raise SubspaceError(f"a subspace is named by 'default' or by the path of its folder, got {type(spec).__name__}")
    folder = Path(str(files("ipt.subspace") / "default")) if spec == "default" else Path(spec)
    manifest = _read_manifest(folder / MANIFEST_FILE)
    tensors = _read_tensors(folder / TENSORS_FILE)
    subspace = _assemble(folder, manifest, tensors)
    if backbone is not None:
        subspace.check_backbone(backbone)
        subspace.decoder.to(backbone.device)
        if subspace.encoder is not None:
            subspace.encoder.to(backbone.device)
    return subspace


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise SubspaceError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, which no manifest is")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubspaceError(
            f"{path}: not found; a subspace is a folder with {MANIFEST_FILE} and {TENSORS_FILE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SubspaceError(f"{path}: not a readable manifest: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version") if isinstance(manifest, dict) else type(manifest).__name__
        raise SubspaceError(f"{path}: format version {FORMAT_VERSION} is understood, found {found!r}")
    for name in _SHAPE_FIELDS:
        value = manifest.get(name)
        least = 0 if name == "decoder_hidden" else 1
        if type(value) is not int or not least <= value <= 1_000_000:
            raise SubspaceError(f"{path}: {name} must be an integer of at least {least}, found {value!r}")
    backbone = manifest.get("backbone")
    names = ("family", "id", "weights_sha256")
    if not isinstance(backbone, dict) or not all(isinstance(backbone.get(name), str) for name in names):
        raise SubspaceError(f"{path}: backbone must name family, id and weights_sha256")
    # Only what this code does: vectors made for anything else would be used in a way that they do not fit.
    for name, found, done in (
        ("backbone.family", backbone["family"], tuple(PLACEMENTS)),
        ("prompt_placement", manifest.get("prompt_placement"), PLACEMENTS.get(backbone["family"], ())),
        ("template", manifest.get("template"), (TEMPLATE,)),
    ):
        if found not in done:
            wanted = " or ".join(map(repr, done))
            raise SubspaceError(f"{path}: {name} must be {wanted} for this version of ipt, found {found!r}")
    try:
        # What a database can keep and an answer can carry, wherever in the manifest it stands.
        storable = "\\u0000" not in json.dumps(manifest, allow_nan=False)
        json.dumps(manifest, ensure_ascii=False).encode()
    except ValueError:
        storable = False
    if not storable:
        raise SubspaceError(f"{path}: holds a NUL character, a lone surrogate or a number that is not finite")
    training = manifest.get("training")
    if not isinstance(training, dict):
        raise SubspaceError(f"{path}: training must be an object, found {type(training).__name__}")
    for name, kind in (("options", dict), ("tasks", list), ("rows", list)):
        if not isinstance(training.get(name, kind()), kind):
            raise SubspaceError(f"{path}: training.{name} must be a {kind.__name__}, where it is there")
    constants = training.get("readout", {"ridge": 1.0, "scale": 1.0})
    if not isinstance(constants, dict) or not all(_positive(constants.get(name)) for name in ("ridge", "scale")):
        raise SubspaceError(f"{path}: training.readout must give ridge and scale, each a positive number")
    return manifest


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < _LARGEST_CONSTANT


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SubspaceError(f"{path}: not a readable safetensors file: {error}") from None


def _assemble(folder: Path, manifest: dict[str, Any], tensors: dict[str, Tensor]) -> Subspace:
    dim, hidden, length, width = (manifest[name] for name in _SHAPE_FIELDS)
    expected: dict[str, tuple[int, ...]] = {
        "decoder.project.weight": (length * width, hidden or dim),
        "decoder.project.bias": (length * width,),
    }
    if hidden:
        expected |= {"decoder.expand.weight": (hidden, dim), "decoder.expand.bias": (hidden,)}
    has_encoder = any(name.startswith("encoder.") for name in tensors)
    if has_encoder:
        expected |= {"encoder.compress.weight": (dim, length * width), "encoder.compress.bias": (dim,)}
    starts = tensors.get("initial_vectors")
    if starts is None or starts.dim() != 2 or not 1 <= starts.shape[0] <= _MAX_STARTS or starts.shape[1] != dim:
        raise SubspaceError(f"{folder}: initial_vectors must have shape [K, {dim}], K at most {_MAX_STARTS}")
    if "task_vectors" in tensors:
        expected["task_vectors"] = (len(manifest["training"].get("tasks", [])), dim)
    if set(tensors) != {*expected, "initial_vectors"}:
        raise SubspaceError(
            f"{folder}: tensors are {sorted(tensors)}, expected {sorted([*expected, 'initial_vectors'])}"
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise SubspaceError(f"{folder}: {name} has shape {list(tensors[name].shape)}, expected {list(shape)}")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise SubspaceError(f"{folder}: {name} is {tensor.dtype}, expected a floating-point type")
        if not torch.isfinite(tensor).all():
            raise SubspaceError(f"{folder}: {name} holds values that are not finite")
    if manifest.get("subspace_id") != _subspace_id(manifest, tensors):
        raise SubspaceError(
            f"{folder}: subspace_id does not match the contents: manifest and tensors were not written together"
        )
    if manifest.get("tensors_sha256") != hash_files([folder / TENSORS_FILE]):
        raise SubspaceError(
            f"{folder / TENSORS_FILE}: its sha256 is not the manifest's tensors_sha256: "
            "the file is damaged, or was not written with this manifest; fetch both again"
        )
    decoder = SubspaceDecoder(dim, hidden, length, width)
    decoder.load_state_dict({n.removeprefix("decoder."): t for n, t in tensors.items() if n.startswith("decoder.")})
    encoder = None
    if has_encoder:
        encoder = SubspaceEncoder(dim, length, width)
        encoder.load_state_dict({n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")})
        encoder.requires_grad_(False)
    vectors = tensors["task_vectors"].float() if "task_vectors" in tensors else None
    return Subspace(manifest["subspace_id"], decoder.requires_grad_(False), starts.float(), manifest, encoder, vectors)


def _subspace_id(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    meaning = {name: manifest.get(name) for name in ("format_version", *_SHAPE_FIELDS, "prompt_placement", "template")}
    meaning["weights_sha256"] = manifest["backbone"]["weights_sha256"]
    digest.update(json.dumps(meaning, sort_keys=True).encode())
    for name in sorted(tensors):
        if name.startswith("decoder."):
            # Little-endian float32 of the stored numbers, so that the id does not depend on how they are stored.
            digest.update(name.encode() + tensors[name].float().numpy().astype("<f4").tobytes())
    return f"sub_{digest.hexdigest()[:24]}"
