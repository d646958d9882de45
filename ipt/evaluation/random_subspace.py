"""An untrained subspace: shows how much of a subspace's worth comes from having few numbers to tune."""

from __future__ import annotations

from dataclasses import replace

import torch

from ipt.backbones.interface import Backbone
from ipt.subspace.full_prompt_space import word_prompts
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.subspace import Subspace


def random_subspace(backbone: Backbone, like: Subspace, seed: int) -> Subspace:
    """Return a subspace of the same shape with an untrained decoder.

    It starts as a fit does: the zero vector gives embeddings of words, and a vector of unit size moves them by the
    standard deviation of word embeddings.
    """
    hidden = getattr(like.decoder, "decoder_hidden", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = SubspaceDecoder(like.intrinsic_dim, hidden, like.prompt_length, like.hidden_size)
    words = word_prompts(backbone, like.prompt_length, seed=seed)
    spread = float(words.std())
    with torch.no_grad():
        moved = decoder(torch.eye(like.intrinsic_dim)) - decoder(torch.zeros(1, like.intrinsic_dim))
        decoder.project.weight.mul_(spread / float(moved.std()))
        decoder.project.bias.copy_(words.flatten())
    decoder.requires_grad_(False).to(backbone.device)
    return replace(
        like,
        id=f"random_{seed}_{like.id}",
        decoder=decoder,
        encoder=None,
        task_vectors=None,
        initial_vectors=torch.zeros(1, like.intrinsic_dim),
    )
