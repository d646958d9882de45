"""Directions of tuned prompts, or random ones, take the place of fitted dimensions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.fitting.fit_rows import RowOptions
from ipt.fitting.other_directions import (
    PROMPT_REACH,
    RANDOM_REACH,
    with_gradient_directions,
    with_prompt_directions,
    with_random_directions,
)
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.fitting.task_losses import TaskLosses
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.support.datasets import sentiment, topics

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
    assert mixed.manifest["training"]["other_directions"] == {"dimensions": RANDOM, "from": "random", "seed": 0}
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
    assert (ratios / RANDOM_REACH - 1.0).abs().max() < 0.6, "each layer moves by RANDOM_REACH times the spread of words"


def test_all_dimensions_can_be_replaced_around_the_prompt_of_the_zero_vector(
    encoder: EncoderBackbone, fitted: ipt.Subspace, tmp_path: Path
) -> None:
    random = with_random_directions(fitted, encoder, DIM, tmp_path / "random")
    assert (random.task_vectors, random.initial_vectors.tolist()) == (None, [[0.0] * DIM])
    torch.testing.assert_close(random.zero_prompt(), fitted.zero_prompt(), atol=2e-2, rtol=1e-2)  # float16
    moved = random.decoder(torch.eye(DIM)) - random.zero_prompt()
    assert torch.linalg.matrix_rank(moved.flatten(1)) == DIM


@pytest.fixture
def losses(encoder: EncoderBackbone, fitted: ipt.Subspace) -> TaskLosses:
    """Two prepared tasks whose steps draw all rows of each label, so that all gradients of a task are equal."""
    tasks = [
        TaskDataset("feelings", "a", tuple(sentiment(4)), ()),
        TaskDataset("topics", "b", tuple(topics() * 2), ()),
    ]
    return prepare_tasks(fitted.placed(encoder), tasks, RowOptions(rows_per_task=64))


def test_gradients_give_directions_in_which_each_task_improves(
    encoder: EncoderBackbone, fitted: ipt.Subspace, losses: TaskLosses, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    subspace = with_gradient_directions(
        fitted, losses, 2, tmp_path / "gradients", on_gradient=lambda done, total: seen.append((done, total))
    )
    assert seen == [(number, 4) for number in (1, 2, 3, 4)]
    record = subspace.manifest["training"]["other_directions"]
    assert (record["from"], record["dimensions"], record["gradients_per_task"]) == ("gradients", 2, 2)
    assert record["tasks"] == ["feelings", "topics"]
    torch.testing.assert_close(subspace.zero_prompt(), fitted.zero_prompt(), atol=2e-2, rtol=1e-2)
    for task in (0, 1):
        drawn = losses.draw([task], np.random.default_rng(1))
        vector = torch.zeros(1, DIM, requires_grad=True)
        before = losses.measure(drawn, subspace.decoder(vector))[0].sum()
        before.backward()
        assert vector.grad is not None
        new, kept = vector.grad[0, -2:].norm(), vector.grad[0, :-2].norm()
        assert new > 3 * kept, "the new directions change the task's loss, the kept ones hardly do"
        with torch.no_grad():
            after = losses.measure(drawn, subspace.decoder(vector - 0.01 * vector.grad / vector.grad.norm()))[0].sum()
        assert after < before


def test_each_layer_counts_alike_in_directions_of_gradients(
    encoder: EncoderBackbone, fitted: ipt.Subspace, losses: TaskLosses, tmp_path: Path
) -> None:
    subspace = with_gradient_directions(fitted, losses, 2, tmp_path / "gradients")
    moved = torch.zeros(2, DIM)
    moved[:, -2:] = torch.eye(2)
    directions = (subspace.decoder(moved) - subspace.zero_prompt()).view(2, 2 * encoder.layer_count, -1)
    lengths = directions.square().sum(dim=(0, 2)).sqrt()
    words = fitted.placed(encoder).prompts_of_tokens(torch.arange(20, 28)[None])[0].view(2 * encoder.layer_count, -1)
    ratios = lengths / words.std(dim=1)
    assert ratios.max() / ratios.min() < 3.0


def tuned_prompts(fitted: ipt.Subspace, count: int) -> dict[str, torch.Tensor]:
    """Prompts that moved from the zero vector's prompt in `RANDOM` directions, and one that stayed there."""
    start = fitted.zero_prompt()
    generator = torch.Generator().manual_seed(4)
    ways = torch.randn(count, RANDOM, generator=generator) @ torch.randn(RANDOM, start.numel(), generator=generator)
    return {"stayed": start, **{f"task {i}": start + way.view_as(start) for i, way in enumerate(ways)}}


def test_tuned_prompts_can_be_reached_in_their_principal_directions(
    encoder: EncoderBackbone, fitted: ipt.Subspace, tmp_path: Path
) -> None:
    prompts = tuned_prompts(fitted, 9)
    mixed = with_prompt_directions(fitted, encoder, RANDOM, tmp_path / "mixed", [prompts])
    assert mixed.manifest["training"]["other_directions"] == {
        "dimensions": RANDOM, "from": "tuned prompts", "prompts": 9,
    }  # fmt: skip
    torch.testing.assert_close(mixed.zero_prompt(), fitted.zero_prompt(), atol=2e-2, rtol=1e-2)
    moved = torch.cat([torch.zeros(RANDOM, DIM - RANDOM), torch.eye(RANDOM)], dim=1) * 0.1
    directions = (mixed.decoder(moved) - mixed.zero_prompt()).flatten(1) / 0.1
    ways = torch.stack([(prompts[f"task {i}"] - fitted.zero_prompt()).flatten() for i in range(9)])
    assert (directions.norm(dim=1) / (PROMPT_REACH * ways.norm(dim=1).mean()) - 1.0).abs().max() < 0.05
    basis = torch.linalg.qr(directions.mT)[0]
    assert ((ways @ basis).norm(dim=1) / ways.norm(dim=1)).min() > 0.99


def test_prompts_that_give_too_few_directions_are_rejected(
    encoder: EncoderBackbone, fitted: ipt.Subspace, tmp_path: Path
) -> None:
    few = tuned_prompts(fitted, RANDOM - 1)
    with pytest.raises(ipt.SubspaceError, match="and 3 of 4 are: tune more prompts"):
        with_prompt_directions(fitted, encoder, RANDOM, tmp_path / "mixed", [few])
    with pytest.raises(ipt.SubspaceError, match="tune them with --start"):
        with_prompt_directions(fitted, encoder, RANDOM, tmp_path / "mixed", [{"a": few["stayed"][1:]}])


def test_what_cannot_be_mixed_is_rejected(encoder: EncoderBackbone, fitted: ipt.Subspace, tmp_path: Path) -> None:
    for count in (0, DIM + 1):
        with pytest.raises(ipt.SubspaceError, match="from 1 to 10"):
            with_random_directions(fitted, encoder, count, tmp_path / "mixed")
    with pytest.raises(ipt.SubspaceError, match="task vectors"):
        with_random_directions(replace(fitted, task_vectors=None), encoder, RANDOM, tmp_path / "mixed")
