"""Attention with prefixes: in the last layers, or in all, a row also attends to keys and values of no token.

A prefix takes no position of the input and passes no feed-forward layer. Source: Li and Liang, "Prefix-Tuning",
arXiv 2101.00190; Liu et al., "P-Tuning v2", arXiv 2110.07602.
Letters in shapes: B rows, T tokens, L prefixed layers, P prefix positions, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ipt.errors import BackboneError

PREFIX_ATTENTION = "ipt_prefix"
"""Name of `attend` in transformers' registry of attention functions. Without prefixes, `attend` is SDPA."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefixes: Tensor | None = None,
    captured: list[tuple[Tensor, Tensor]] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as SDPA does, after putting the layer's prefix in front of its keys and values [B, heads, T, H / heads].

    Args:
        attention_mask: as SDPA takes it; its last dimension includes the prefix positions.
        prefixes: [B, L, 2, P, H], the keys and the values of the last L layers.
        captured: the layer's keys and values of its tokens, [B, T, H] each, are appended to this list.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if captured is not None:
        captured.append((key.transpose(1, 2).flatten(2), value.transpose(1, 2).flatten(2)))
    if prefixes is not None:
        below = module.config.num_hidden_layers - prefixes.shape[1]
        if module.layer_idx < below:
            attention_mask = None if attention_mask is None else attention_mask[..., prefixes.shape[3] :]
        else:
            rows, heads, _, size = key.shape
            of_layer = prefixes[:, module.layer_idx - below].reshape(rows, 2, -1, heads, size)
            prefix = of_layer.transpose(2, 3).to(key.dtype)
            key, value = torch.cat([prefix[:, 0], key], dim=2), torch.cat([prefix[:, 1], value], dim=2)
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output


def enable_prefixes(model: nn.Module) -> None:
    """Make every self-attention of an encoder accept prefixes; a call without prefixes gives the same result as before.

    Raises:
        BackboneError: the model's attention cannot be replaced.
    """
    # Imported here, because transformers takes seconds to import.
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PREFIX_ATTENTION, attend)
    AttentionMaskInterface.register(PREFIX_ATTENTION, sdpa_mask)
    config: Any = model.config
    if config._attn_implementation not in ("sdpa", PREFIX_ATTENTION):  # noqa: SLF001 - it has no public name
        raise BackboneError(
            f"prompts in the layers need SDPA attention, which this {config.model_type} model does not use: choose "
            "another prompt placement",
            param="prompt_placement",
        )
    if config.model_type == "distilbert":  # its attention does not know its layer
        distilbert: Any = model
        for number, layer in enumerate(distilbert.transformer.layer):
            layer.attention.layer_idx = number
    config._attn_implementation = PREFIX_ATTENTION  # noqa: SLF001
