"""Replace transformers' `gelu_new` (in GPT-2 and newer T5), which runs eight operations, with PyTorch's fused one."""

from __future__ import annotations

from torch import nn


def fuse_gelu(model: nn.Module) -> None:
    """Replace every `gelu_new` in the model with `nn.GELU(approximate="tanh")`, which is the same function.

    Each of the eight operations writes a tensor as wide as the feed-forward layer and keeps it for the backward pass.
    """
    # Imported here: it takes seconds, and only a process that loads a backbone needs it.
    from transformers.activations import NewGELUActivation

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))
