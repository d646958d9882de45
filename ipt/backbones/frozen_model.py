"""Load model and tokenizer of a local folder with transformers, safely and without output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ipt.backbones.gelu import fuse_gelu
from ipt.backbones.interface import Family
from ipt.backbones.weight_files import first_line
from ipt.errors import BackboneError


def load_frozen(
    folder: Path, name: str, family: Family, device: torch.device, dtype: torch.dtype | None
) -> tuple[torch.nn.Module, Any]:
    """Return the model, frozen and on `device`, and the tokenizer. No weight is left at its random initial value.

    Raises:
        BackboneError: transformers cannot load the files, or weights, config and tokenizer do not fit together.
    """
    # Imported here: these imports take seconds, and only a process that loads a backbone needs them.
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto: Any = {"encoder": AutoModel, "seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM}[family]
    if dtype is None and device.type == "cpu":
        dtype = torch.float32
    try:
        with quiet_transformers():
            model, info = auto.from_pretrained(
                folder,
                dtype=dtype or "auto",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = _load_tokenizer(folder, model.config)
    except Exception as error:  # a hostile config can make transformers raise any type
        raise BackboneError(f"{name} cannot be loaded: {first_line(error)}", param="backbone") from error
    # Sentence encoders often come without the pooler, which this code never uses.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        wrong = missing or sorted(str(key[0]) for key in info["mismatched_keys"])
        raise BackboneError(
            f"{name}: the weight files do not fit the {type(model).__name__} of config.json "
            f"({len(wrong)} tensors missing or of another shape, {wrong[0]} first)",
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

    # tokenizer.json is complete. For some model types AutoTokenizer rebuilds the tokenizer from its class instead,
    # which gives other tokens if the two differ.
    has_json = (folder / "tokenizer.json").is_file()
    loader: Any = PreTrainedTokenizerFast if has_json else AutoTokenizer
    tokenizer = loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    for name in ("bos_token", "eos_token"):
        index = getattr(config, f"{name}_id", None)
        # Older repositories leave these to the tokenizer's class; config.json names them.
        if getattr(tokenizer, name) is None and isinstance(index, int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(index))
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turn off transformers' progress bar and its report of unused tensors; both settings are global."""
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
