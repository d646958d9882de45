"""Replace dimensions of a subspace by random directions.

A fitted decoder has directions for what its training tasks ask. A new task may ask for something else, and then tuning
in the fitted directions gains little (docs/decisions/0049). Random directions lead a little way towards anything.

Letters: D intrinsic dimension, R random dimensions, N training tasks, P prompt length, H hidden size.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ipt.backbones.interface import Backbone
from ipt.errors import SubspaceError
from ipt.fitting.direct_fit import spread_of_words
from ipt.subspace.full_prompt_space import word_prompts
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace

REACH = 3.0
"""Standard deviation that the random directions together give a prompt's numbers, if all their coordinates are 1;
relative to the standard deviation of the prompts of words."""
LINEAR_WITHIN = 16.0
"""A random direction passes a tanh unit, which is linear for coordinates much smaller than this."""


def with_random_directions(
    subspace: Subspace, backbone: Backbone, random_dims: int, folder: Path, seed: int = 0
) -> Subspace:
    """Save a subspace of the same dimension, with R random dimensions in place of as many fitted ones.

    The D − R principal directions of the training tasks' vectors are kept; their span has the initial vectors, as far
    as it can. The prompt of the zero vector stays the same.

    Args:
        subspace: has task vectors, and a decoder with a hidden layer.
        backbone: that of the subspace.
        random_dims: R, less than D.
        folder: where to save the new subspace.
        seed: of the random directions.

    Raises:
        SubspaceError: the subspace has no task vectors or no hidden layer, or R is not less than D.
    """
    decoder = subspace.decoder
    vectors = subspace.task_vectors
    if not isinstance(decoder, SubspaceDecoder) or decoder.expand is None or vectors is None:
        raise SubspaceError("random directions need a subspace with task vectors and a decoder with a hidden layer")
    dim, hidden = decoder.intrinsic_dim, decoder.decoder_hidden
    if not 0 < random_dims < dim:
        raise SubspaceError(f"the number of random dimensions must be from 1 to {dim - 1}, got {random_dims}")
    backbone = subspace.placed(backbone)
    kept = dim - random_dims
    basis = _principal_directions(torch.cat([subspace.initial_vectors, vectors]).double(), kept).float()
    widened = SubspaceDecoder(dim, hidden + random_dims, decoder.prompt_length, decoder.hidden_size)
    assert widened.expand is not None
    generator = torch.Generator().manual_seed(seed)
    spread = spread_of_words(backbone, word_prompts(backbone, decoder.prompt_length, seed=seed)[0].float().cpu())
    directions = torch.randn(len(spread), random_dims, generator=generator) * spread[:, None]
    with torch.no_grad():
        for parameter in widened.parameters():
            parameter.zero_()
        widened.expand.weight[:hidden, :kept] = decoder.expand.weight.float().cpu() @ basis
        widened.expand.weight[hidden:, kept:] = torch.eye(random_dims) / LINEAR_WITHIN
        widened.expand.bias[:hidden] = decoder.expand.bias
        widened.project.weight[:, :hidden] = decoder.project.weight
        widened.project.weight[:, hidden:] = directions * (LINEAR_WITHIN * REACH / math.sqrt(random_dims))
        widened.project.bias.copy_(decoder.project.bias)
    nothing = torch.zeros(1, random_dims)

    def in_new_coordinates(old: Tensor) -> Tensor:
        return torch.cat([old @ basis, nothing.expand(len(old), -1)], dim=1)

    return save_subspace(
        folder,
        widened,
        backbone,
        initial_vectors=in_new_coordinates(subspace.initial_vectors),
        task_vectors=in_new_coordinates(vectors),
        training=subspace.manifest["training"] | {"random_directions": {"dimensions": random_dims, "seed": seed}},
    )


def _principal_directions(vectors: Tensor, count: int) -> Tensor:
    """Return the orthonormal directions [D, count] in which `vectors` [N, D] are longest, completed if N is smaller."""
    directions: Tensor = torch.linalg.svd(vectors, full_matrices=True)[2]
    return directions[:count].mT
