"""GGUF files, the format of llama.cpp: check one, and dequantize it once into a folder of safetensors.

transformers and the package `gguf` read the file. The folder lies in the user's cache under the SHA-256 of the file's
content. It holds float32 weights, config, tokenizer and chat template, and loads like any local folder.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import FileLock

from ipt.backbones.frozen_model import quiet_transformers
from ipt.backbones.weight_files import WEIGHTS, first_line
from ipt.errors import BackboneError

SUFFIX = ".gguf"
MODEL = f"model{SUFFIX}"
MAGIC = b"GGUF"
CACHE_VERSION = 1
"""Part of the name of a cache folder: raise it when `_dequantize` writes other files."""
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
"""Architectures that transformers reads as one of the supported causal models."""
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
EXTRA = "pip install 'intrinsic-prompt-tuning[writer]'"


def dequantized_folder(file: Path, name: str, sha256: str) -> Path:
    """Return a folder with the model of a GGUF file; the first call writes it, and takes seconds.

    Another process that needs the same folder waits. A killed process leaves no incomplete folder.

    Args:
        name: of the backbone, for messages.
        sha256: of the file's content.

    Raises:
        BackboneError: the file is damaged or unsupported, a package is missing, or the cache cannot be written.
    """
    folder = _cache() / f"{sha256[:40]}-{CACHE_VERSION}"
    if folder.is_dir():
        return folder
    _check_packages(name)
    _check_file(file, name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                _dequantize(file, name, partial)
                partial.rename(folder)
    except OSError as error:
        raise BackboneError(
            f"{name} cannot be dequantized into {folder.parent} ({first_line(error)}): free space there, or set "
            "XDG_CACHE_HOME to another folder",
            param="backbone",
        ) from error
    return folder


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "intrinsic-prompt-tuning" / "gguf"


def _check_packages(name: str) -> None:
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise BackboneError(
            f"{name} is a GGUF file, and reading it needs the package {missing[0]}: run `{EXTRA}`", param="backbone"
        )


def _check_file(file: Path, name: str) -> None:
    """Check everything that transformers would misread, or report less clearly.

    Raises:
        BackboneError: the file is unsupported or damaged.
    """
    if PART.search(file.name):
        raise BackboneError(
            f"{name} is one part of a split model: merge the parts with `llama-gguf-split --merge`, or choose a "
            "quantization that is one file",
            param="backbone",
        )
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise BackboneError(f"{name} does not start with {MAGIC.decode()}: it is not a GGUF file", param="backbone")
    # Imported here: only GGUF files need the package, which an extra installs.
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        # Not the vocabulary's strings, which take seconds to decode.
        metadata = {key: field.contents() for key, field in reader.fields.items() if len(field.data) <= 1}
        vocabulary = reader.fields.get("tokenizer.ggml.tokens")
        metadata["vocabulary_size"] = 0 if vocabulary is None else len(vocabulary.data)
        tensors = {tensor.name for tensor in reader.tensors}
    except Exception as error:  # a hostile header can make the reader raise any type
        raise BackboneError(
            f"{name} is truncated or damaged ({first_line(error)}): download it again", param="backbone"
        ) from error
    if fault := _fault(metadata, tensors):
        raise BackboneError(f"{name} {fault}", param="backbone")


def _fault(metadata: Mapping[str, Any], tensors: set[str]) -> str | None:
    """Return why a file with these fields and tensors is unsupported, to follow its name; None if it is supported."""
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        return f"has the architecture {str(architecture)[:40]!r}; supported: {', '.join(ARCHITECTURES)}"
    if _number(metadata, f"{architecture}.expert_count"):
        return "is a mixture of experts, which is not supported: choose a dense model"
    if _number(metadata, "split.count") > 1:
        return "is one part of a split model: merge the parts with `llama-gguf-split --merge`"
    # transformers ignores both, and would compute other positions than the model was trained with.
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in tensors:
        return "scales its rotary positions, which transformers does not read from GGUF: load the model's own folder"
    if not metadata["vocabulary_size"]:
        return "has no tokenizer: choose a file that has tokenizer.ggml.tokens"
    end = metadata.get("tokenizer.ggml.eos_token_id")
    if not isinstance(end, int) or not 0 <= end < metadata["vocabulary_size"]:
        return "has a tokenizer without an end-of-sequence token, so no answer could end: choose another file"
    return None


def _number(metadata: Mapping[str, Any], key: str) -> int:
    value = metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _dequantize(file: Path, name: str, folder: Path) -> None:
    """Write model, config and tokenizer of a GGUF file to `folder`, as `save_pretrained` would."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    auto_model: Any = AutoModelForCausalLM
    tokenizer_class: Any = PreTrainedTokenizerFast
    try:
        # In a folder of its own, so that transformers reads no other file from beside it. Its progress bar of GGUF
        # files cannot be turned off.
        with quiet_transformers(), redirect_stderr(io.StringIO()), TemporaryDirectory() as source:
            (Path(source) / MODEL).symlink_to(file.resolve())
            options = {"gguf_file": MODEL, "local_files_only": True, "trust_remote_code": False}
            model, info = auto_model.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
            tokenizer = tokenizer_class.from_pretrained(source, **options)
    except Exception as error:  # a hostile file can make transformers raise any type
        raise BackboneError(
            f"{name} cannot be read by transformers ({first_line(error)}): download it again, or choose another file",
            param="backbone",
        ) from error
    wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]]))
    if wrong:  # transformers would leave random weights there
        raise BackboneError(
            f"{name} does not hold the tensors of its {type(model).__name__} ({len(wrong)} missing, unexpected or of "
            f"another shape, {wrong[0]} first): choose another file",
            param="backbone",
        )
    folder.mkdir(parents=True)
    weights = model.state_dict()
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    config = model.config
    # The written weights are not quantized any more, so `save_pretrained` of the model, which refuses, is not used.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
