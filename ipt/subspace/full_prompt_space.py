"""Plain prompt tuning (PT) in the form of a `Subspace`: the full space of soft prompts, with an identity decoder.

A vector here is a flattened prompt. So the code that tunes, fuses, resumes and predicts in a subspace also does PT, on
every family of backbones, and a comparison with PT differs in nothing else.
Letters: K starts, D = P·H intrinsic dimension, P prompt length, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ipt.backbones.interface import Backbone
from ipt.errors import SubspaceError
from ipt.subspace.prompt_decoder import PromptDecoder
from ipt.subspace.subspace import Subspace


class IdentityDecoder(PromptDecoder):
    """Reshape vectors, which are flattened prompts."""

    def __init__(self, prompt_length: int, hidden_size: int) -> None:
        super().__init__()
        self.intrinsic_dim = prompt_length * hidden_size
        self.prompt_length = prompt_length
        self.hidden_size = hidden_size

    def forward(self, vectors: Tensor) -> Tensor:
        """Reshape [J, P·H] to [J, P, H]."""
        return vectors.view(-1, self.prompt_length, self.hidden_size)


def full_prompt_space(backbone: Backbone, prompt_length: int, starts: Tensor | None = None) -> Subspace:
    """Return the full space of prompts, in which `adapt` and the engine tune whole prompts.

    Args:
        backbone: the frozen model.
        prompt_length: P.
        starts: [K, P, H] prompts where tuning may start; `word_prompts` with seed 0 when None. A prompt that IST found
            gives "IST, then PT".

    Raises:
        SubspaceError: P is less than 1, or the starts have another shape.
    """
    if prompt_length < 1:
        raise SubspaceError(f"prompt_length must be at least 1, got {prompt_length}")
    if starts is None:
        starts = word_prompts(backbone, prompt_length, seed=0)
    if starts.dim() != 3 or starts.shape[1:] != (prompt_length, backbone.hidden_size):
        raise SubspaceError(
            f"starts must have shape [K, {prompt_length}, {backbone.hidden_size}], got {list(starts.shape)}"
        )
    identity = backbone.identity
    manifest = {
        "backbone": {"family": backbone.family, "id": identity.id, "weights_sha256": identity.weights_sha256},
        "prompt_placement": backbone.prompt_placement,
        "template": backbone.template,
        "training": {},
    }
    return Subspace(
        id=f"prompts_{prompt_length}_{backbone.prompt_identity[:24]}",
        decoder=IdentityDecoder(prompt_length, backbone.hidden_size),
        initial_vectors=starts.detach().float().cpu().flatten(1),
        manifest=manifest,
        shared_prompt=backbone.shared_prompt,
    )


@torch.no_grad()
def word_prompts(backbone: Backbone, prompt_length: int, *, seed: int, count: int = 1) -> Tensor:
    """Return prompts [count, P, H] of random words from the frequent half of the vocabulary, the usual start of PT.

    Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2.

    Raises:
        BackboneError: prompts of this length leave no room for text.
    """
    backbone.check_room(prompt_length)
    vocabulary = backbone.input_embeddings.num_embeddings
    generator = torch.Generator().manual_seed(seed)
    words = backbone.prompt_words(prompt_length)
    # A vocabulary starts with special tokens, unused tokens and single bytes.
    low, high = vocabulary // 20, max(vocabulary // 2, vocabulary // 20 + 1)
    drawn = torch.randint(low, high, (count, words), generator=generator)
    return backbone.prompts_of_tokens(drawn).float().cpu()
