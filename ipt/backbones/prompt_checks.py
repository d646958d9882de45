"""The check that every backbone makes on the soft prompts it is given before it places them."""

from __future__ import annotations

from torch import Tensor

from ipt.errors import BackboneError


def checked_prompts(prompts: Tensor | None, rows: int, hidden_size: int, like: Tensor) -> Tensor | None:
    """`prompts` as `[rows, P, hidden_size]` in the device and dtype of `like`, or None when P is 0.

    Raises `BackboneError` when the shape is another one.
    """
    if prompts is None:
        return None
    if prompts.dim() != 3 or prompts.shape[0] != rows or prompts.shape[2] != hidden_size:
        raise BackboneError(
            f"soft prompts have shape {list(prompts.shape)}, expected [{rows}, P, {hidden_size}]: one prompt for "
            "each row, of the backbone's hidden size",
            param="prompts",
        )
    if prompts.shape[1] == 0:
        return None
    return prompts.to(device=like.device, dtype=like.dtype)
