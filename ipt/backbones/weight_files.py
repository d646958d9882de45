"""The weight files of a backbone: which they are, whether they are sound, their hash, and the model made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ipt.backbones.gelu import fuse_gelu
from ipt.backbones.interface import Family
from ipt.errors import BackboneError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model, sorted by name."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
            raise BackboneError(
                f"{folder.name} has its weights only as pickles (.bin), which can run code when they are read: "
                f"convert them to {WEIGHTS} or choose a revision that has it",
                param="backbone",
            )
        raise BackboneError(f"{folder.name} holds no {WEIGHTS}", param="backbone")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        # A name that is a path could point anywhere on the machine.
        sound = bool(names) and all(Path(name).name == name and name.endswith(".safetensors") for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise BackboneError(f"{folder.name}: {INDEX} is damaged", param="backbone")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BackboneError(f"{folder.name} lacks {missing[0]}, which {INDEX} names", param="backbone")
    return [folder / name for name in names]


def check_weights(files: list[Path]) -> None:
    """Read each file's header; `BackboneError` when one is truncated or not a safetensors file."""
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError, ValueError) as error:
            raise BackboneError(
                f"{file} is truncated or not a safetensors file ({_first_line(error)}): fetch it again",
                param="backbone",
            ) from None


def hash_files(files: list[Path]) -> str:
    """sha256, in hex, over the contents of the files in the order given; of one file, that file's own hash."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def load_frozen(
    folder: Path, name: str, family: Family, device: torch.device, dtype: torch.dtype | None
) -> tuple[torch.nn.Module, Any]:
    """Model, on `device`, and tokenizer of a local folder. Every weight the model uses comes from the files."""
    # Imported here: these imports take seconds, and only a process that loads a backbone needs them.
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto: Any = {"encoder": AutoModel, "seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM}[family]
    if dtype is None and device.type == "cpu":
        dtype = torch.float32
    try:
        with _quiet_transformers():
            model, info = auto.from_pretrained(
                folder,
                dtype=dtype or "auto",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = _load_tokenizer(folder, model.config)
    except Exception as error:  # a hostile config makes transformers raise anything at all
        raise BackboneError(f"{name} cannot be loaded: {_first_line(error)}", param="backbone") from error
    # Sentence encoders often come without the pooler, which is never used.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        lacking = missing or sorted(str(key[0]) for key in info["mismatched_keys"])
        raise BackboneError(
            f"{name}: the weight files do not fit the {type(model).__name__} of config.json "
            f"({len(lacking)} tensors missing or of another shape, {lacking[0]} first)",
            param="backbone",
        )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BackboneError(f"{name}: the tokenizer has more tokens than the model has embeddings", param="backbone")
    if not all(bool(torch.isfinite(weights).all()) for weights in model.parameters()):
        raise BackboneError(f"{name}: the weights hold NaN or infinity", param="backbone")
    fuse_gelu(model)
    return model.to(device).eval().requires_grad_(False), tokenizer


def _load_tokenizer(folder: Path, config: Any) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # tokenizer.json says all there is to say. AutoTokenizer rebuilds some model types' tokenizers from their class
    # instead, and so gives other tokens than the file where the two differ.
    whole = (folder / "tokenizer.json").is_file()
    loader: Any = PreTrainedTokenizerFast if whole else AutoTokenizer
    tokenizer = loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    for name in ("bos_token", "eos_token"):
        index = getattr(config, f"{name}_id", None)
        # Older repositories leave these to the tokenizer's class; config.json names them.
        if getattr(tokenizer, name) is None and isinstance(index, int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(index))
    return tokenizer


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar for loading a local file, and no report of tensors that are not used; both are global."""
    from transformers.utils import logging as untyped

    logging: Any = untyped

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
