"""The backbones of the engine benchmarks: MiniLM, and others in their real shapes with random weights.

The cost of a pass depends only on the shapes. Tokenizers need a hub download, so all backbones use MiniLM's.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ipt
from benchmarks.machine import ROOT
from ipt.backbones.causal import CausalBackbone
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.gelu import fuse_gelu
from ipt.backbones.interface import Backbone, BackboneIdentity
from ipt.backbones.loading import DEFAULT, PACKAGED
from ipt.backbones.seq2seq import Seq2SeqBackbone
from ipt.readout.readout import Readout
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.subspace import Subspace

NAMES = ("MiniLM", "BART-base", "T5-base", "GPT-2", "Qwen-0.5B")
CAUSAL = ("GPT-2", "Qwen-0.5B")
TEXT_PROMPT_LENGTH = 100
"""As in the paper."""
INPUT_PROMPTS = "sub_748956d9219551415565105b"
"""The earlier default subspace: its prompts are in the input, as PEFT's are."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A backbone with a subspace, and the plain transformers model for limits and peers."""

    name: str
    backbone: Backbone
    subspace: Subspace
    bare: Any


def load(name: str, device: torch.device, dtype: torch.dtype, folder: Path | None = None) -> Measured:
    """Load a backbone with a subspace: a shipped one for MiniLM, one of random weights for the others.

    Args:
        folder: holds MiniLM if its package is not installed; may be a copy in half precision.
    """
    minilm = load_minilm(folder, device, dtype)
    if name == "MiniLM":
        subspace = SubspaceLibrary().load(INPUT_PROMPTS, minilm)
        assert subspace is not None
        return Measured(name, minilm, subspace, minilm.model)
    tokenizer = minilm.tokenizer
    tokenizer.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
    with torch.device(device):
        bare = _random_model(name).to(dtype).eval().requires_grad_(False)
    model = copy.deepcopy(bare)
    fuse_gelu(model)
    identity = BackboneIdentity(f"{name}, random weights", None, "0" * 64)
    family = CausalBackbone if name in CAUSAL else Seq2SeqBackbone
    backbone = family(model, tokenizer, identity)
    decoder = SubspaceDecoder(250, 768, TEXT_PROMPT_LENGTH, backbone.hidden_size).requires_grad_(False).to(device)
    manifest = {
        "backbone": {"family": backbone.family, "id": identity.id, "weights_sha256": identity.weights_sha256},
        "prompt_placement": backbone.prompt_placement,
        "template": backbone.template,
        "training": {},
    }
    return Measured(name, backbone, Subspace("sub_random", decoder, torch.zeros(1, 250), manifest), bare)


def load_minilm(
    folder: Path | None, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> EncoderBackbone:
    """Load the default backbone from its package, or from a folder under the identity of the package."""
    minilm = ipt.load_backbone(DEFAULT if folder is None else str(folder), device=device, dtype=dtype)
    assert isinstance(minilm, EncoderBackbone)
    if folder is not None:
        minilm.identity = BackboneIdentity(
            PACKAGED[DEFAULT].id, None, PACKAGED[DEFAULT].sha256
        )  # as the subspace requires
    return minilm


def _random_model(name: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BartConfig, GPT2Config, Qwen2Config, T5Config

    if name == "GPT-2":
        return AutoModelForCausalLM.from_config(GPT2Config())
    if name == "Qwen-0.5B":
        return AutoModelForCausalLM.from_config(Qwen2Config(**_QWEN_HALF_B))
    if name == "T5-base":
        shape = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
        return AutoModelForSeq2SeqLM.from_config(T5Config(**shape, decoder_start_token_id=0))
    layers = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in _BART_BASE.items()}
    return AutoModelForSeq2SeqLM.from_config(BartConfig(d_model=768, **layers))


# The configuration of Qwen/Qwen2.5-0.5B.
_QWEN_HALF_B = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
_BART_BASE = {"layers": 6, "attention_heads": 12, "ffn_dim": 3072}


def examples_of(name: str = "support_tickets") -> list[ipt.Example]:
    """Return an example dataset of the project in file order."""
    lines = (ROOT / "examples" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [ipt.Example(row["input"], row["output"]) for row in map(json.loads, lines)]


def texts(count: int) -> list[str]:
    """Return texts of the example datasets in a fixed random order, repeated as needed."""
    rows = [example.input for name in ("support_tickets", "reviews") for example in examples_of(name)]
    order = np.random.default_rng(0).permutation(len(rows))
    return list(islice(cycle([rows[i] for i in order]), count))


def few_shot(per_label: int, seed: int) -> list[ipt.Example]:
    """Return `per_label` random tickets of each of the six labels."""
    tickets = examples_of()
    rng = np.random.default_rng(seed)
    drawn: list[ipt.Example] = []
    for label in sorted({ticket.output for ticket in tickets}):
        of_label = [ticket for ticket in tickets if ticket.output == label]
        drawn += [of_label[i] for i in rng.permutation(len(of_label))[:per_label]]
    return drawn


def tasks(measured: Measured, count: int, labels: int = 6) -> list[ipt.BoundTask]:
    """Return tasks with random vectors and readouts, in the format and size of tuned ones."""
    rng = np.random.default_rng(0)
    hidden, dim = measured.subspace.hidden_size, measured.subspace.intrinsic_dim
    predictor = ipt.Predictor(measured.backbone, measured.subspace)
    names = tuple(f"label {number}" for number in range(labels))
    bound = []
    for _ in range(count):
        weights = torch.from_numpy(rng.integers(-127, 128, (labels, 2 * hidden), dtype=np.int8))
        readout = Readout(weights, torch.full((labels,), 0.02), torch.zeros(labels)).to_bytes()
        vector = (0.1 * rng.standard_normal(dim)).astype(np.float32)
        head = ipt.TaskHead(vector, measured.subspace.id, "classification", names, readout)
        bound.append(predictor.bind(head))
    return bound
