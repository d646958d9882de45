"""The untrained subspace that tuning is compared with."""

import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.evaluation.random_subspace import random_subspace


def test_a_random_subspace_has_the_same_shape_and_starts_at_words(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    drawn = random_subspace(encoder, subspace, seed=0)
    assert (drawn.intrinsic_dim, drawn.prompt_length) == (subspace.intrinsic_dim, subspace.prompt_length)
    assert drawn.id != subspace.id
    words = encoder.model.get_input_embeddings().weight  # type: ignore[operator]
    start = drawn.decoder(torch.zeros(1, 8))[0]
    moved = drawn.decoder(torch.eye(8)) - start
    assert 0.5 < float(moved.std()) / float(start.std()) < 2.0
    assert 0.3 < float(start.std()) / float(words.std()) < 3.0
    assert torch.equal(
        drawn.decoder(torch.ones(1, 8)), random_subspace(encoder, subspace, seed=0).decoder(torch.ones(1, 8))
    )
    assert not torch.equal(start, random_subspace(encoder, subspace, seed=1).decoder(torch.zeros(1, 8))[0])
