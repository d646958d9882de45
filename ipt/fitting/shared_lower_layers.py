"""Let all tasks share a prompt's lower layers, so that a text passes these layers once for all tasks and steps.

A prompt at every layer that depends on the task makes each step of tuning pass all layers, forth and back. If only the
upper layers' keys and values depend on it, a step passes only those. The tasks then share the lower layers' keys and
values of the zero vector, which stands for the average training task.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ipt.backbones.interface import Backbone
from ipt.errors import SubspaceError
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace


@torch.no_grad()
def share_lower_layers(subspace: Subspace, backbone: Backbone, folder: Path) -> Subspace:
    """Save a subspace of prompts at the upper layers, from one of prompts at every layer.

    The prompt of the zero vector stays the same. Another vector keeps its keys and values of the upper layers.

    Args:
        subspace: fitted with the placement `every_layer`, with a `SubspaceDecoder`.
        backbone: that of the subspace.
        folder: where to save the new subspace.

    Raises:
        SubspaceError: the subspace has another placement or decoder.
    """
    decoder = subspace.decoder
    if subspace.manifest["prompt_placement"] != "every_layer" or not isinstance(decoder, SubspaceDecoder):
        raise SubspaceError(
            f"subspace {subspace.id} has the prompt placement {subspace.manifest['prompt_placement']!r}: only prompts "
            "at every layer have lower layers to share"
        )
    subspace.check_backbone(backbone)
    upper = backbone.placed("upper_layers")
    positions = backbone.placed("every_layer").prompt_words(decoder.prompt_length)
    kept_rows = upper.prompt_rows(positions)
    shared_rows = decoder.prompt_length - kept_rows
    narrowed = SubspaceDecoder(decoder.intrinsic_dim, decoder.decoder_hidden, kept_rows, decoder.hidden_size)
    first = shared_rows * decoder.hidden_size
    state = decoder.state_dict()
    state["project.weight"], state["project.bias"] = state["project.weight"][first:], state["project.bias"][first:]
    narrowed.load_state_dict(state)
    return save_subspace(
        folder,
        narrowed,
        upper.with_shared_prompt(subspace.zero_prompt()[:shared_rows].float().cpu()),
        initial_vectors=subspace.initial_vectors,
        task_vectors=subspace.task_vectors,
        training=subspace.manifest["training"] | {"lower_layers_of": subspace.id},
    )
