"""Soft prompts on disk: a safetensors file of one tensor [P, H] a task, named after it.

So are the files that PEFT's prompt tuning writes, whose one tensor is `prompt_embeddings`.
Letters: P prompt length, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ipt.backbones.interface import Backbone
from ipt.errors import CheckpointError, SubspaceError, SubspaceMismatchError
from ipt.runtime.atomic_files import replace_atomically
from ipt.subspace.subspace import Subspace


def backbone_metadata(backbone: Backbone) -> dict[str, str]:
    """What is kept beside prompts of the backbone that they mean something to."""
    return {"id": backbone.identity.id, "weights_sha256": backbone.prompt_identity}


def save_prompts(path: Path, prompts: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Write prompts [P, H] by name, with the id and the weights' hash of the backbone that they were tuned on.

    `path` is replaced in one move.
    """
    identity = backbone_metadata(backbone)
    tensors = {name: prompt.detach().float().cpu().contiguous() for name, prompt in prompts.items()}
    with replace_atomically(path) as temporary:
        save_file(tensors, temporary, {"backbone": json.dumps(identity)})


def save_prompt_embeds(path: Path, subspace: Subspace, vector: NDArray[np.float32], about: Mapping[str, str]) -> None:
    """Write a task's soft prompt as one tensor `prompt_embeds` [P, H], for engines that take prompts as embeddings.

    In front of an input's embedded tokens it makes a plain `causal` model answer as the task does. `about` goes into
    the file's metadata, beside the ids of backbone and subspace. `path` is replaced in one move.

    Raises:
        SubspaceError: the subspace belongs to a backbone of another family.
        SubspaceMismatchError: the vector has another length than the subspace's.
    """
    backbone = subspace.manifest["backbone"]
    if backbone.get("family") != "causal":
        raise SubspaceError(
            f"subspace {subspace.id} is of {backbone['id']!r}, which is no causal backbone: only these take a prompt "
            "as embeddings in front of an input"
        )
    if vector.shape != (subspace.intrinsic_dim,):
        raise SubspaceMismatchError(
            f"the task vector has shape {list(vector.shape)}, subspace {subspace.id} wants [{subspace.intrinsic_dim}]"
        )
    with torch.no_grad():
        prompt = subspace.decoder(torch.from_numpy(vector)[None].to(next(subspace.decoder.parameters()).device))[0]
    metadata = {"backbone": json.dumps(backbone), "subspace_id": subspace.id, **about}
    with replace_atomically(path) as temporary:
        save_file({"prompt_embeds": prompt.float().cpu().contiguous()}, temporary, metadata)


def read_prompts(path: Path, user: Backbone | Subspace | None = None) -> dict[str, Tensor]:
    """Prompts [P, H] in float32, by name, for a backbone or subspace to use.

    Raises:
        CheckpointError: the file is missing or damaged, holds something else, or says that its prompts were tuned on
            another backbone than its user's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            prompts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        identity = json.loads(metadata.get("backbone", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable file of soft prompts: {error}") from None
    if not prompts:
        raise CheckpointError(f"{path}: holds no prompt")
    for name, prompt in prompts.items():
        if prompt.dim() != 2 or not prompt.is_floating_point() or not torch.isfinite(prompt).all():
            raise CheckpointError(f"{path}: {name} is no prompt, which is a [P, H] tensor of finite numbers")
        if user is not None and prompt.shape[1] != user.hidden_size:
            raise CheckpointError(
                f"{path}: {name} has hidden size {prompt.shape[1]}, the backbone's is {user.hidden_size}"
            )
    found = identity.get("weights_sha256") if isinstance(identity, dict) else None
    if user is not None and found not in (None, user.prompt_identity):
        wanted = user.manifest["backbone"]["id"] if isinstance(user, Subspace) else user.identity.id
        raise CheckpointError(f"{path}: its prompts were tuned on {identity.get('id')!r}, not {wanted!r}")
    return {name: prompt.float() for name, prompt in prompts.items()}
