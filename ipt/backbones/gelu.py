"""GELU's tanh approximation in one pass: transformers writes it as eight (`gelu_new`, in GPT-2 and in newer T5)."""

from __future__ import annotations

from torch import nn


def fuse_gelu(model: nn.Module) -> None:
    """Let the model's own `gelu_new` be PyTorch's, which is the same function.

    The eight passes each write all that a layer's widest part holds, and keep it for the way back.
    """
    # Imported here: it takes seconds, and only a process that loads a backbone needs it.
    from transformers.activations import NewGELUActivation

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))
