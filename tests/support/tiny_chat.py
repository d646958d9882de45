"""A tiny chat model: a Llama of two layers with a byte-level tokenizer and a chat template, and a subspace for it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

import ipt
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.support.tiny_gguf import CHAT_TEMPLATE, build_tiny_llama, byte_level_tokens


def build_tiny_chat(folder: Path, template: str | None = CHAT_TEMPLATE) -> Path:
    """Write the model to a folder."""
    from transformers import PreTrainedTokenizerFast

    build_tiny_llama().save_pretrained(folder)
    tokens = byte_level_tokens()
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, [("h", "e")]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[1],
        eos_token=tokens[2],
        additional_special_tokens=tokens[:1],
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def save_chat_subspace(folder: Path, backbone: ipt.Backbone) -> ipt.Subspace:
    """Write an untrained subspace of eight dimensions, whose prompts stand in a user's turn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
    return ipt.save_subspace(folder, decoder, backbone.placed("user_turn"))
