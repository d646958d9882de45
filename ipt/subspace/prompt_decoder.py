"""The auto-encoder over soft prompts: the encoder compresses a prompt to a task vector, the decoder expands it again.

Source: "Exploring Universal Intrinsic Task Subspace via Prompt Tuning", arXiv 2110.07867, section 3.2.
Letters: J task vectors, D intrinsic dimension, P prompt length, H hidden size of the backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SubspaceEncoder(nn.Module):
    """Compress soft prompts to task vectors with one linear layer (the paper's Proj)."""

    def __init__(self, intrinsic_dim: int, prompt_length: int, hidden_size: int) -> None:
        super().__init__()
        self.compress = nn.Linear(prompt_length * hidden_size, intrinsic_dim)

    def forward(self, prompts: Tensor) -> Tensor:
        """Map soft prompts [J, P, H] to task vectors [J, D]."""
        vectors: Tensor = self.compress(prompts.flatten(1))
        return vectors


class PromptDecoder(nn.Module):
    """Base class of modules that map vectors [J, D] to soft prompts [J, P, H]."""

    intrinsic_dim: int
    prompt_length: int
    hidden_size: int


class SubspaceDecoder(PromptDecoder):
    """Map task vectors to soft prompts with linear, tanh, linear (the paper's Proj_b), or with one linear layer.

    Args:
        intrinsic_dim: D.
        decoder_hidden: width of the hidden layer; 0 for a single linear layer.
        prompt_length: P.
        hidden_size: H.
    """

    def __init__(self, intrinsic_dim: int, decoder_hidden: int, prompt_length: int, hidden_size: int) -> None:
        super().__init__()
        self.intrinsic_dim = intrinsic_dim
        self.decoder_hidden = decoder_hidden
        self.prompt_length = prompt_length
        self.hidden_size = hidden_size
        self.expand = nn.Linear(intrinsic_dim, decoder_hidden) if decoder_hidden else None
        self.project = nn.Linear(decoder_hidden or intrinsic_dim, prompt_length * hidden_size)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map task vectors [J, D] to soft prompts [J, P, H]."""
        hidden = vectors if self.expand is None else torch.tanh(self.expand(vectors))
        prompts: Tensor = self.project(hidden)
        return prompts.view(-1, self.prompt_length, self.hidden_size)
