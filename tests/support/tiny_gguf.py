"""Tiny GGUF files: a Llama of two layers with a byte-level tokenizer, as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

HEADS, KEY_VALUE_HEADS, LAYERS, HIDDEN = 2, 1, 2, 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level_tokens() -> list[str]:
    """Return three control tokens, a token for each byte, and the one merged token."""
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he"]


def build_tiny_llama() -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(byte_level_tokens()),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    auto: Any = AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(config).eval()


def write_tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    eos: int | None = 2,
    tokens: bool = True,
    numbers: Mapping[str, int] = {},
    strings: Mapping[str, str] = {},
    quantization: Any = None,
    without: str = "",
) -> Any:
    """Write the file, and return the model whose weights it has.

    Args:
        architecture: as the file states it; the weights are always a Llama's.
        eos: the end-of-sequence token; None: the file has none.
        tokens: whether the file has a vocabulary.
        numbers: further integer fields.
        strings: further text fields.
        quantization: a `gguf.GGMLQuantizationType` of the matrices; float32 when None.
        without: name of a tensor to leave out.
    """
    import gguf

    model = build_tiny_llama()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(byte_level_tokens()))
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(byte_level_tokens())
        writer.add_token_types([3, 3, 3, *[1] * 257])
        writer.add_token_merges(["h e"])
        writer.add_bos_token_id(1)
        writer.add_chat_template(CHAT_TEMPLATE)
    if eos is not None:
        writer.add_eos_token_id(eos)
    for key, number in numbers.items():
        writer.add_uint32(key, number)
    for key, text in strings.items():
        writer.add_string(key, text)
    for name, weights in gguf_tensors(model).items():
        if name == without:
            continue
        if quantization is not None and weights.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(weights, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def gguf_tensors(model: Any) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a Llama by the names, and in the order of rows, that llama.cpp uses."""
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = {name: weights.numpy() for name, weights in model.state_dict().items()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    for layer in range(LAYERS):
        for part, name in parts.items():
            weights = state[f"model.layers.{layer}.{part}.weight"]
            if name in ("attn_q", "attn_k"):
                weights = _with_paired_rows(weights, HEADS if name == "attn_q" else KEY_VALUE_HEADS)
            tensors[f"blk.{layer}.{name}.weight"] = np.ascontiguousarray(weights)
    return tensors


def _with_paired_rows(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp rotates neighboring rows of a head together, transformers those half a head apart."""
    rows = weights.shape[0] // heads
    return weights.reshape(heads, 2, rows // 2, -1).swapaxes(1, 2).reshape(weights.shape)
