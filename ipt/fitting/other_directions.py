"""Replace dimensions of a subspace by other directions: gradients, those of tuned prompts, or random ones.

A fitted decoder has directions for what its training tasks share. A new task may ask for something else, and then
tuning in the fitted directions gains little (docs/decisions/0049, 0063 and 0088). The gradients of many tasks at the
prompt of the zero vector show where tuning starts to go. Whole prompts that were tuned from there show where it ends.
Random directions lead a little way towards anything.

Letters: D intrinsic dimension, R replaced dimensions, N training tasks, G gradients, P prompt length, H hidden size,
K = P · H numbers of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ipt.backbones.interface import Backbone
from ipt.errors import SubspaceError
from ipt.fitting.direct_fit import spread_of_words
from ipt.fitting.task_losses import TaskLosses
from ipt.subspace.full_prompt_space import word_prompts
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace

RANDOM_REACH = 3.0
"""Standard deviation that the random directions together give a prompt's numbers, if all their coordinates are 1;
relative to the standard deviation of the prompts of words."""
GRADIENT_REACH = 6.0
"""The same for directions of gradients."""
SPARE_GRADIENTS = 1.4
"""Gradients for each direction that is made of them, at least: the weakest principal directions are noise."""
PROMPT_REACH = 0.5
"""Length of a direction of tuned prompts if its coordinate is 1, relative to the mean way of the tuned prompts."""
LINEAR_WITHIN = 16.0
"""A new direction passes a tanh unit, which is linear for coordinates much smaller than this."""


def with_random_directions(subspace: Subspace, backbone: Backbone, dims: int, folder: Path, seed: int = 0) -> Subspace:
    """Save a subspace of the same dimension, with R random directions in place of as many fitted ones.

    Args:
        subspace: has task vectors, and a decoder with a hidden layer.
        backbone: that of the subspace.
        dims: R, at most D.
        folder: where to save the new subspace.
        seed: of the random directions.

    Raises:
        SubspaceError: the subspace has no task vectors or no hidden layer, or R is more than D.
    """
    _check_replaceable(subspace, dims)
    placed = subspace.placed(backbone)
    spread = _spread(subspace, placed, seed)
    generator = torch.Generator().manual_seed(seed)
    lengths = RANDOM_REACH / math.sqrt(dims) * spread
    directions = lengths[:, None] * torch.randn(len(spread), dims, generator=generator)
    return _with_directions(subspace, placed, directions, folder, {"from": "random", "seed": seed})


def with_gradient_directions(
    subspace: Subspace,
    losses: TaskLosses,
    dims: int,
    folder: Path,
    seed: int = 0,
    on_gradient: Callable[[int, int], None] | None = None,
) -> Subspace:
    """Save a subspace of the same dimension, with the R principal directions of gradients in place of fitted ones.

    Each task gives equally many gradients of its loss, on other rows each, with respect to the prompt of the zero
    vector. Each layer's keys and values count alike: their gradients are divided by their root mean square over all
    tasks, then multiplied by the spread of words there. Each gradient counts alike, too.

    Args:
        subspace: has task vectors, and a decoder with a hidden layer.
        losses: prepared tasks, on the subspace's backbone and placement (`Subspace.placed`).
        dims: R, at most D.
        folder: where to save the new subspace.
        seed: of the drawn rows.
        on_gradient: called with (done, total) after each gradient.

    Raises:
        SubspaceError: as in `with_random_directions`; or a gradient is not finite.
    """
    _check_replaceable(subspace, dims)
    tasks, backbone = losses.tasks, losses.backbone
    rounds = math.ceil(SPARE_GRADIENTS * dims / len(tasks))
    start = subspace.zero_prompt().float().to(backbone.device)
    rng = np.random.default_rng([seed, dims])
    gradients: list[Tensor] = []
    for task in [task for task in range(len(tasks)) for _ in range(rounds)]:
        prompt = start.clone().requires_grad_()
        losses.measure(losses.draw([task], rng), prompt[None])[0].sum().backward()
        assert prompt.grad is not None
        if not prompt.grad.isfinite().all():
            raise SubspaceError(f"the gradient of the task {tasks[task].name!r} is not finite: leave the task out")
        gradients.append(prompt.grad.flatten().cpu())
        if on_gradient:
            on_gradient(len(gradients), rounds * len(tasks))
    spread = _spread(subspace, backbone, seed)
    directions = _directions_of_gradients(torch.stack(gradients), spread, 2 * backbone.prompted_layers or 1, dims)
    record = {"from": "gradients", "seed": seed, "gradients_per_task": rounds, **losses.record()}
    return _with_directions(subspace, backbone, directions, folder, record)


def _spread(subspace: Subspace, placed: Backbone, seed: int) -> Tensor:
    """Return how much prompts of words vary [K]."""
    words = word_prompts(placed, subspace.decoder.prompt_length, seed=seed)
    return spread_of_words(placed, words[0].float().cpu())


def _directions_of_gradients(gradients: Tensor, spread: Tensor, parts: int, dims: int) -> Tensor:
    """Return the R principal directions [K, R] of gradients [G, K] whose `parts` equal parts are scaled to `spread`."""
    by_part = gradients.double().view(len(gradients), parts, -1)
    by_part = by_part / by_part.square().mean(dim=(0, 2), keepdim=True).sqrt().clamp_min(1e-30)
    scaled = by_part.flatten(1) * spread.double()
    scaled = scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1e-30)
    length = GRADIENT_REACH * float(spread.norm()) / math.sqrt(dims)
    return length * _principal_directions(scaled, dims).float()


def with_prompt_directions(
    subspace: Subspace,
    backbone: Backbone,
    dims: int,
    folder: Path,
    prompts: Sequence[Mapping[str, Tensor]],
) -> Subspace:
    """Save a subspace of the same dimension, with the R principal directions of tuned prompts in place of fitted ones.

    Args:
        subspace: has task vectors, and a decoder with a hidden layer.
        backbone: that of the subspace.
        dims: R, at most D.
        folder: where to save the new subspace.
        prompts: files of prompts [P, H] by task, tuned from the prompt of the subspace's zero vector.

    Raises:
        SubspaceError: as in `with_random_directions`; the prompts have another shape, or fewer than R of them moved.
    """
    _check_replaceable(subspace, dims)
    placed = subspace.placed(backbone)
    start = subspace.zero_prompt().cpu()
    tuned = [prompt.float() for file in prompts for prompt in file.values()]
    if any(prompt.shape != start.shape for prompt in tuned):
        raise SubspaceError(f"the prompts must have the subspace's shape {list(start.shape)}: tune them with --start")
    ways = torch.stack([(prompt - start).flatten() for prompt in tuned]).double()
    lengths = ways.norm(dim=1)
    # A prompt that tuning did not improve is the start, up to rounding.
    ways = ways[lengths > 1e-3 * start.norm()]
    if len(ways) < dims:
        raise SubspaceError(
            f"{dims} directions need at least as many prompts that tuning moved, and {len(ways)} of {len(tuned)} are: "
            "tune more prompts (another --seed), or replace fewer dimensions"
        )
    directions = _principal_directions(ways / ways.norm(dim=1, keepdim=True), dims).float()
    directions *= PROMPT_REACH * float(ways.norm(dim=1).mean())
    return _with_directions(subspace, placed, directions, folder, {"from": "tuned prompts", "prompts": len(ways)})


def _with_directions(
    subspace: Subspace, backbone: Backbone, directions: Tensor, folder: Path, record: dict[str, object]
) -> Subspace:
    """Save a subspace whose last R dimensions are the `directions` [P · H, R] of the flattened prompt.

    The D − R principal directions of the training tasks' vectors are kept; their span has the initial vectors, as far
    as it can. The prompt of the zero vector stays the same. If R is D, it is all that stays: the decoder is linear, and
    the subspace has no task vectors and no other initial vector.
    """
    decoder, vectors = _check_replaceable(subspace, directions.shape[1])
    dim, hidden, replaced = decoder.intrinsic_dim, decoder.decoder_hidden, directions.shape[1]
    training = subspace.manifest["training"] | {"other_directions": {"dimensions": replaced, **record}}
    kept = dim - replaced
    if not kept:
        linear = SubspaceDecoder(dim, 0, decoder.prompt_length, decoder.hidden_size)
        linear.load_state_dict({"project.weight": directions, "project.bias": subspace.zero_prompt().flatten()})
        return save_subspace(folder, linear, backbone, training=training)
    basis = _principal_directions(torch.cat([subspace.initial_vectors, vectors]).double(), kept).float()
    widened = SubspaceDecoder(dim, hidden + replaced, decoder.prompt_length, decoder.hidden_size)
    assert decoder.expand is not None
    assert widened.expand is not None
    with torch.no_grad():
        for parameter in widened.parameters():
            parameter.zero_()
        widened.expand.weight[:hidden, :kept] = decoder.expand.weight.float().cpu() @ basis
        widened.expand.weight[hidden:, kept:] = torch.eye(replaced) / LINEAR_WITHIN
        widened.expand.bias[:hidden] = decoder.expand.bias
        widened.project.weight[:, :hidden] = decoder.project.weight
        widened.project.weight[:, hidden:] = directions * LINEAR_WITHIN
        widened.project.bias.copy_(decoder.project.bias)

    def in_new_coordinates(old: Tensor) -> Tensor:
        return pad(old @ basis, (0, replaced))

    return save_subspace(
        folder,
        widened,
        backbone,
        initial_vectors=in_new_coordinates(subspace.initial_vectors),
        task_vectors=in_new_coordinates(vectors),
        training=training,
    )


def _check_replaceable(subspace: Subspace, dims: int) -> tuple[SubspaceDecoder, Tensor]:
    """Return the subspace's decoder and task vectors [N, D], if R of its dimensions can be replaced.

    Raises:
        SubspaceError: they cannot.
    """
    decoder, vectors = subspace.decoder, subspace.task_vectors
    if not isinstance(decoder, SubspaceDecoder) or decoder.expand is None or vectors is None:
        raise SubspaceError("other directions need a subspace with task vectors and a decoder with a hidden layer")
    if not 0 < dims <= decoder.intrinsic_dim:
        most = decoder.intrinsic_dim
        raise SubspaceError(f"the number of dimensions to replace must be from 1 to {most}, got {dims}")
    return decoder, vectors


def _principal_directions(vectors: Tensor, count: int) -> Tensor:
    """Return the orthonormal directions [D, count] in which `vectors` [N, D] are longest, completed if N is smaller."""
    directions: Tensor = torch.linalg.svd(vectors, full_matrices=len(vectors) < count)[2]
    return directions[:count].mT
