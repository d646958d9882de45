"""Random directions take the place of fitted dimensions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.fitting.random_directions import REACH, with_random_directions
from ipt.subspace.prompt_decoder import SubspaceDecoder

DIM, RANDOM = 10, 4


@pytest.fixture
def fitted(encoder: EncoderBackbone, tmp_path: Path) -> ipt.Subspace:
    """A subspace of ten dimensions whose starts and task vectors lie in a span of three."""
    placed = encoder.placed("every_layer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        decoder = SubspaceDecoder(DIM, 12, placed.prompt_rows(1), placed.hidden_size)
        span = torch.randn(3, DIM)
        starts = torch.cat([torch.zeros(1, DIM), torch.randn(2, 3) @ span])
        vectors = torch.randn(5, 3) @ span
    training = {"method": "direct", "tasks": list("abcde")}
    return ipt.save_subspace(
        tmp_path / "fitted", decoder, placed, initial_vectors=starts, task_vectors=vectors, training=training,
        dtype=torch.float32,
    )  # fmt: skip


def test_prompts_of_starts_and_training_tasks_stay_and_new_directions_are_added(
    encoder: EncoderBackbone, fitted: ipt.Subspace, tmp_path: Path
) -> None:
    mixed = with_random_directions(fitted, encoder, RANDOM, tmp_path / "mixed")
    assert (mixed.intrinsic_dim, mixed.manifest["prompt_placement"]) == (DIM, "every_layer")
    assert mixed.manifest["training"]["random_directions"] == {"dimensions": RANDOM, "seed": 0}
    assert fitted.task_vectors is not None
    assert mixed.task_vectors is not None
    assert torch.equal(mixed.initial_vectors[0], torch.zeros(DIM))
    for old, new in ((fitted.initial_vectors, mixed.initial_vectors), (fitted.task_vectors, mixed.task_vectors)):
        torch.testing.assert_close(mixed.decoder(new), fitted.decoder(old), atol=2e-2, rtol=1e-2)  # float16
    moved = torch.zeros(1, DIM)
    moved[0, DIM - RANDOM :] = 1.0
    difference = (mixed.decoder(moved) - mixed.decoder(torch.zeros(1, DIM)))[0].view(2 * encoder.layer_count, -1)
    words = fitted.placed(encoder).prompts_of_tokens(torch.arange(20, 28)[None])[0].view(2 * encoder.layer_count, -1)
    ratios = difference.std(dim=1) / words.std(dim=1)
    assert (ratios / REACH - 1.0).abs().max() < 0.6, "each layer moves by REACH times the spread of words"


def test_what_cannot_be_mixed_is_rejected(encoder: EncoderBackbone, fitted: ipt.Subspace, tmp_path: Path) -> None:
    for count in (0, DIM):
        with pytest.raises(ipt.SubspaceError, match="from 1 to 9"):
            with_random_directions(fitted, encoder, count, tmp_path / "mixed")
    with pytest.raises(ipt.SubspaceError, match="task vectors"):
        with_random_directions(replace(fitted, task_vectors=None), encoder, RANDOM, tmp_path / "mixed")
