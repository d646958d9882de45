"""A subspace in memory: its decoder, the vectors where tuning may start, and its manifest.

Letters in shapes: J task vectors, K initial vectors, N training tasks, D intrinsic dimension, P prompt length, H hidden
size of the backbone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipt.backbones.interface import Backbone, prompt_identity
from ipt.errors import SubspaceError, SubspaceMismatchError
from ipt.subspace.prompt_decoder import PromptDecoder, SubspaceEncoder


@dataclass(frozen=True)
class Subspace:
    """A decoder with everything that defines what its task vectors mean."""

    id: str
    decoder: PromptDecoder
    initial_vectors: Tensor
    """[K, D]: the vectors where tuning may start; the first one is the default."""
    manifest: dict[str, Any]
    encoder: SubspaceEncoder | None = None
    task_vectors: Tensor | None = None
    """[N, D]: the vectors of the training tasks, in the manifest's order; None when they were not saved."""
    shared_prompt: Tensor | None = None
    """[rows, H]: keys and values of the layers below the prompted ones, equal for all vectors; None: there are none."""

    @property
    def intrinsic_dim(self) -> int:
        return self.decoder.intrinsic_dim

    @property
    def prompt_length(self) -> int:
        return self.decoder.prompt_length

    @property
    def hidden_size(self) -> int:
        return self.decoder.hidden_size

    @property
    def prompt_identity(self) -> str:
        """The `Backbone.prompt_identity` of the backbone that the prompts are for."""
        manifest, backbone = self.manifest, self.manifest["backbone"]
        return prompt_identity(
            backbone["weights_sha256"],
            backbone["family"],
            manifest["prompt_placement"],
            manifest["template"],
            self.shared_prompt,
        )

    @torch.no_grad()
    def zero_prompt(self) -> Tensor:
        """Return the prompt [P, H] of the zero vector, which stands for the average training task."""
        prompts: Tensor = self.decoder(torch.zeros_like(self.initial_vectors[:1]))
        return prompts[0]

    def initial_vector_id(self, vector: NDArray[np.float32]) -> int | None:
        """Return the 63-bit id of the initial vector that `vector` [D] equals, or None if tuning moved it.

        The id is a hash of the numbers, because the order of `initial_vectors` may change without a new subspace id.
        """
        starts = self.initial_vectors.float().cpu().numpy()
        equal = starts[(starts == vector).all(axis=1)]
        return int.from_bytes(hashlib.sha256(equal[0].tobytes()).digest()[:8]) >> 1 if len(equal) else None

    @torch.no_grad()
    def compress(self, prompts: Tensor) -> Tensor:
        """Compress soft prompts [J, P, H] of this subspace's backbone to task vectors [J, D].

        Raises:
            SubspaceError: the subspace was saved without its encoder, or the prompts have another shape.
        """
        if self.encoder is None:
            raise SubspaceError(f"subspace {self.id} has no encoder, so it cannot compress prompts")
        if prompts.dim() != 3 or prompts.shape[1:] != (self.prompt_length, self.hidden_size):
            raise SubspaceError(
                f"subspace {self.id} compresses prompts of shape [J, {self.prompt_length}, {self.hidden_size}], "
                f"got {list(prompts.shape)}"
            )
        vectors: Tensor = self.encoder(prompts.float())
        return vectors

    def check_backbone(self, backbone: Backbone) -> None:
        """Check that `backbone` is the one this subspace was fitted on.

        Raises:
            SubspaceMismatchError: it has another family or other weights.
        """
        expected, actual = self.manifest["backbone"], backbone.identity
        if expected["family"] != backbone.family:
            raise SubspaceMismatchError(
                f"subspace {self.id} belongs to a backbone of family {expected['family']!r}, "
                f"{actual.id!r} is of family {backbone.family!r}: load that backbone, or fit a subspace for this one"
            )
        if expected["weights_sha256"] != actual.weights_sha256:
            raise SubspaceMismatchError(
                f"subspace {self.id} belongs to backbone {expected['id']!r} "
                f"(weights {expected['weights_sha256'][:12]}…), "
                f"not to {actual.id!r} (weights {actual.weights_sha256[:12]}…): "
                "load that backbone, or fit a subspace for this one"
            )
        if self.hidden_size != backbone.hidden_size:
            raise SubspaceMismatchError(
                f"subspace {self.id} makes prompts of hidden size {self.hidden_size}, "
                f"the backbone has hidden size {backbone.hidden_size}"
            )

    def placed(self, backbone: Backbone) -> Backbone:
        """Return `backbone` with the prompt placement that this subspace was fitted with.

        Raises:
            SubspaceMismatchError: the subspace was fitted on another backbone, or with another chat template.
        """
        self.check_backbone(backbone)
        placed = backbone.placed(self.manifest["prompt_placement"])
        if placed.template != self.manifest["template"]:
            raise SubspaceMismatchError(
                f"subspace {self.id} was fitted with another chat template than that of {backbone.identity.id!r}: load "
                "the backbone with the tokenizer files of that time, or fit a subspace for these"
            )
        return placed if self.shared_prompt is None else placed.with_shared_prompt(self.shared_prompt)
