"""Soft prompts on disk: safetensors files with one tensor [P, H] for each task, and requests for vLLM's chat endpoint.

A tensor is named after its task. PEFT's prompt-tuning files have the same format, with one tensor named
`prompt_embeddings`.
Letters: P prompt length, H hidden size.
"""

from __future__ import annotations

import base64
import io
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
    """Return what a file of prompts records about its backbone."""
    return {"id": backbone.identity.id, "weights_sha256": backbone.prompt_identity}


def save_prompts(path: Path, prompts: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Write prompts [P, H] by name, with the id and hash of their backbone; replaces `path` atomically."""
    tensors = {name: prompt.detach().float().cpu().contiguous() for name, prompt in prompts.items()}
    with replace_atomically(path) as temporary:
        save_file(tensors, temporary, {"backbone": json.dumps(backbone_metadata(backbone))})


def save_prompt_embeds(path: Path, subspace: Subspace, vector: NDArray[np.float32], about: Mapping[str, str]) -> None:
    """Write a task's soft prompt as one tensor `prompt_embeds` [P, H], for inference engines that take embeddings.

    A plain `causal` model with this prompt before the embedded input answers as the task does. The metadata's
    `template` says what else stands around the input.

    Args:
        path: the file, replaced atomically.
        subspace: the subspace of the vector.
        vector: [D].
        about: metadata of the file, beside the ids of backbone and subspace.

    Raises:
        SubspaceError: the subspace belongs to a backbone of another family.
        SubspaceMismatchError: the vector has another length than the subspace's vectors.
    """
    prompt = _causal_prompt(subspace, vector)
    backbone, template = json.dumps(subspace.manifest["backbone"]), subspace.manifest["template"]
    metadata = {"backbone": backbone, "subspace_id": subspace.id, "template": template, **about}
    with replace_atomically(path) as temporary:
        save_file({"prompt_embeds": prompt}, temporary, metadata)


def save_chat_request(path: Path, subspace: Subspace, vector: NDArray[np.float32], about: Mapping[str, str]) -> None:
    """Write a request for vLLM's `/v1/chat/completions` as JSON, with the task's soft prompt before the text "{input}".

    Args and errors are those of `save_prompt_embeds`, and:

    Raises:
        SubspaceError: the subspace's prompts do not stand in a user's turn.
    """
    prompt = _causal_prompt(subspace, vector)
    if subspace.manifest["prompt_placement"] != "user_turn":
        raise SubspaceError(
            f"subspace {subspace.id} has the prompt placement {subspace.manifest['prompt_placement']!r}, and a chat "
            "request needs 'user_turn': export the prompt as safetensors"
        )
    buffer = io.BytesIO()
    torch.save(prompt, buffer)
    parts = [
        {"type": "prompt_embeds", "data": base64.b64encode(buffer.getvalue()).decode()},
        {"type": "text", "text": "{input}"},
    ]
    request = {
        "model": subspace.manifest["backbone"]["id"],
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "metadata": {"subspace_id": subspace.id, **about},
    }
    with replace_atomically(path) as temporary:
        temporary.write_text(json.dumps(request) + "\n", encoding="utf-8")


def _causal_prompt(subspace: Subspace, vector: NDArray[np.float32]) -> Tensor:
    """Return the soft prompt of a vector [D], [P, H] in float32 on the CPU; `save_prompt_embeds` lists the errors."""
    backbone = subspace.manifest["backbone"]
    if backbone.get("family") != "causal":
        raise SubspaceError(
            f"subspace {subspace.id} belongs to {backbone['id']!r}, which is not a causal backbone: only causal "
            "backbones take a prompt as embeddings before the input"
        )
    if subspace.manifest["prompt_placement"] == "every_layer":
        raise SubspaceError(
            f"the prompts of subspace {subspace.id} are keys and values of layers, which other servers do not take as "
            "input: fit a subspace with the placement 'user_turn' or 'before_input' to export its prompts"
        )
    if vector.shape != (subspace.intrinsic_dim,):
        raise SubspaceMismatchError(
            f"the task vector has shape {list(vector.shape)}, subspace {subspace.id} expects [{subspace.intrinsic_dim}]"
        )
    with torch.no_grad():
        vectors = torch.from_numpy(vector)[None].to(next(subspace.decoder.parameters()).device)
        prompt: Tensor = subspace.decoder(vectors)[0]
    return prompt.float().cpu().contiguous()


def read_prompts(path: Path, user: Backbone | Subspace | None = None) -> dict[str, Tensor]:
    """Return prompts [P, H] in float32, by name.

    Args:
        path: the file.
        user: the backbone or subspace that the prompts must fit; not checked when None.

    Raises:
        CheckpointError: the file is missing or damaged, holds other tensors than prompts, or its prompts were tuned on
            another backbone, or for another prompt placement, than the user's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            prompts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        recorded = json.loads(metadata.get("backbone", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable file of soft prompts: {error}") from None
    if not prompts:
        raise CheckpointError(f"{path}: holds no prompt")
    for name, prompt in prompts.items():
        if prompt.dim() != 2 or not prompt.is_floating_point() or not torch.isfinite(prompt).all():
            raise CheckpointError(f"{path}: {name} is not a prompt; expected a [P, H] tensor of finite numbers")
        if user is not None and prompt.shape[1] != user.hidden_size:
            raise CheckpointError(
                f"{path}: {name} has hidden size {prompt.shape[1]}, the backbone has {user.hidden_size}"
            )
    sha256 = recorded.get("weights_sha256") if isinstance(recorded, dict) else None
    if user is not None and sha256 not in (None, user.prompt_identity):
        expected = user.manifest["backbone"]["id"] if isinstance(user, Subspace) else user.identity.id
        if recorded.get("id") == expected:
            raise CheckpointError(
                f"{path}: its prompts were tuned on other weights of {expected!r}, or for another prompt placement"
            )
        raise CheckpointError(f"{path}: its prompts were tuned on {recorded.get('id')!r}, not {expected!r}")
    return {name: prompt.float() for name, prompt in prompts.items()}
