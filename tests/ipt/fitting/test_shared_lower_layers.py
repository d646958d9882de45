"""Tasks share the lower layers of the zero vector's prompt; their vectors move the upper layers only."""

from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.errors import SubspaceError
from ipt.fitting.other_directions import with_random_directions
from ipt.fitting.shared_lower_layers import share_lower_layers
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.support.datasets import sentiment

DIM, POSITIONS = 6, 2


def save_fitted(encoder: EncoderBackbone, placement: str, folder: Path) -> ipt.Subspace:
    placed = encoder.placed(placement)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        decoder = SubspaceDecoder(DIM, 8, placed.prompt_rows(POSITIONS), placed.hidden_size)
        vectors = torch.randn(4, DIM)
    starts = torch.cat([torch.zeros(1, DIM), vectors[:1]])
    return ipt.save_subspace(
        folder,
        decoder,
        placed,
        initial_vectors=starts,
        task_vectors=vectors,
        training={"tasks": list("abcd")},
        dtype=torch.float32,
    )


def test_the_prompt_of_the_zero_vector_stays_and_other_vectors_keep_their_upper_layers(
    encoder: EncoderBackbone, tmp_path: Path
) -> None:
    fitted = save_fitted(encoder, "every_layer", tmp_path / "fitted")
    shared = share_lower_layers(fitted, encoder, tmp_path / "shared")
    rows = encoder.tokenize(["good movie", "the dog was happy"])
    prompts, embeddings = [], []
    for subspace in (fitted, shared):
        placed = subspace.placed(encoder)
        assert isinstance(placed, EncoderBackbone)
        prompts.append(subspace.decoder(fitted.initial_vectors))
        embeddings.append(placed.embed(rows, prompts[-1][:1].expand(2, -1, -1)))

    torch.testing.assert_close(embeddings[1], embeddings[0], atol=2e-3, rtol=0)  # float16 in the file
    torch.testing.assert_close(prompts[1], prompts[0][:, -prompts[1].shape[1] :], atol=2e-3, rtol=1e-2)
    assert shared.manifest["prompt_placement"] == "upper_layers"
    assert shared.manifest["training"]["lower_layers_of"] == fitted.id
    loaded = ipt.load_subspace(tmp_path / "shared", encoder)
    assert loaded.shared_prompt is not None
    assert (loaded.id, loaded.shared_prompt.shape[1]) == (shared.id, encoder.hidden_size)


def test_the_shared_prompt_is_part_of_the_id(encoder: EncoderBackbone, tmp_path: Path) -> None:
    shared = share_lower_layers(save_fitted(encoder, "every_layer", tmp_path / "fitted"), encoder, tmp_path / "shared")
    assert isinstance(shared.decoder, SubspaceDecoder)
    plain = ipt.save_subspace(tmp_path / "plain", shared.decoder, encoder.placed("upper_layers"))
    assert plain.id != shared.id
    assert plain.prompt_identity != shared.prompt_identity
    assert plain.placed(shared.placed(encoder)).shared_prompt is None


def test_a_shared_subspace_is_redirected_tuned_in_and_answered_from(encoder: EncoderBackbone, tmp_path: Path) -> None:
    shared = share_lower_layers(save_fitted(encoder, "every_layer", tmp_path / "fitted"), encoder, tmp_path / "shared")
    mixed = with_random_directions(shared, encoder, 2, tmp_path / "mixed")
    assert mixed.shared_prompt is not None
    task = ipt.adapt(encoder, mixed, sentiment(4), hyperparameters=ipt.Hyperparameters(steps=10, learning_rate=0.3))
    assert task.head.vector.shape == (DIM,)
    [prediction] = ipt.Predictor(encoder, mixed).predict([(task.head, "good movie")])
    assert prediction.label in {example.output for example in sentiment(4)}


def test_only_prompts_at_every_layer_have_lower_layers_to_share(encoder: EncoderBackbone, tmp_path: Path) -> None:
    upper = save_fitted(encoder, "upper_layers", tmp_path / "upper")
    with pytest.raises(SubspaceError, match="has the prompt placement 'upper_layers'"):
        share_lower_layers(upper, encoder, tmp_path / "shared")
