"""What every backbone offers: frozen weights, token ids, and a forward pass with one soft prompt per row.

Letters in shapes: B rows, T tokens, P prompt length, H hidden size, C classes.
A soft prompt is always given as ``[B, P, H]`` (row i's own prompt); ``None`` or P = 0 means no prompt.
Rows may have any lengths; padding, masks, position ids and placement are the backbone's business.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ipt.errors import BackboneError

Family = Literal["encoder", "seq2seq", "causal"]
EncoderPlacement = Literal["after_first_token", "before_first_token", "after_last_token"]
Placement = Literal[EncoderPlacement, "before_input"]
"""Where a prompt stands: in an encoder's input, which has special tokens at both ends, or in any other's."""
PLACEMENTS: dict[str, tuple[Placement, ...]] = {
    "encoder": get_args(EncoderPlacement),
    "seq2seq": ("before_input",),
    "causal": ("before_input",),
}
"""Of each family, the usual one first."""
TokenIds = list[int]


@dataclass(frozen=True)
class BackboneIdentity:
    """What the meaning of a task vector depends on: the same identity gives the same frozen function."""

    id: str
    revision: str | None
    weights_sha256: str


def prompt_identity(weights_sha256: str, family: str, placement: str) -> str:
    """A SHA-256 of all that the meaning of a prompt depends on: that of the weights, where it stands as usual."""
    if placement == PLACEMENTS[family][0]:
        return weights_sha256
    return hashlib.sha256(f"{placement} {weights_sha256}".encode()).hexdigest()


MIN_TEXT_POSITIONS: dict[Family, int] = {"encoder": 3, "seq2seq": 2, "causal": 2}
"""Positions that a text needs beside a prompt: two special tokens and one of its own; or one, and one to answer it."""


class Backbone(ABC):
    """A frozen pre-trained language model with its tokenizer."""

    family: ClassVar[Family]

    identity: BackboneIdentity
    tokenizer: Any
    hidden_size: int
    max_positions: int
    """Most positions (prompt included) that the model can attend to in its input."""
    model: torch.nn.Module
    """The frozen transformers model, in eval mode, no parameter requiring a gradient."""
    prompt_placement: Placement

    def check_room(self, prompt_length: int) -> None:
        """Whether a prompt of so many positions leaves room for text.

        Raises:
            BackboneError: it does not.
        """
        if self.max_positions - prompt_length < MIN_TEXT_POSITIONS[self.family]:
            raise BackboneError(
                f"a soft prompt of {prompt_length} positions leaves no room for text: {self.identity.id!r} attends to "
                f"{self.max_positions} positions",
                param="prompt_length",
            )

    @property
    def prompt_identity(self) -> str:
        """`prompt_identity` of this backbone's prompts."""
        return prompt_identity(self.identity.weights_sha256, self.family, self.prompt_placement)

    @property
    def layer_count(self) -> int:
        """Layers of the whole model."""
        config: Any = self.model.config
        return int(config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _check_prompts(self, prompts: Tensor | None, rows: int) -> Tensor | None:
        """Return `prompts` as [rows, P, H] in the device and dtype of the embeddings, or None when P is 0.

        Raises:
            BackboneError: the shape is another one.
        """
        if prompts is None:
            return None
        if prompts.dim() != 3 or prompts.shape[0] != rows or prompts.shape[2] != self.hidden_size:
            raise BackboneError(
                f"soft prompts have shape {list(prompts.shape)}, expected [{rows}, P, {self.hidden_size}]: one prompt "
                "for each row, of the backbone's hidden size",
                param="prompts",
            )
        if prompts.shape[1] == 0:
            return None
        embeddings: Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return prompts.to(device=embeddings.device, dtype=embeddings.dtype)

    @abstractmethod
    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Token ids of input texts, special tokens included, truncated to `max_tokens` and to `max_positions`."""

    @abstractmethod
    def max_input_tokens(self, prompt_length: int) -> int:
        """Tokens of an input that are read behind a prompt of so many positions: on a backbone that writes text,
        beside an answer of the usual length."""

    def tokenize_flagged(self, texts: Sequence[str], prompt_length: int) -> list[tuple[TokenIds, bool]]:
        """What `tokenize` gives for each text, and whether the text is too long to be read whole behind a prompt."""
        most = self.max_input_tokens(prompt_length)
        return [(row, len(row) > most) for row in self.tokenize(texts)]


class TextBackbone(Backbone):
    """A backbone that writes text (`seq2seq`, `causal`).

    Inputs are what `tokenize` gives, targets and labels what `tokenize_targets` gives. An input that does not fit
    beside the prompt (and, for `causal`, the target) is shortened as `tokenize` shortens it.
    """

    prompt_placement = "before_input"

    @abstractmethod
    def tokenize_targets(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of target texts, end-of-sequence included, no start token, truncated to half of `max_positions`."""

    @abstractmethod
    def target_log_likelihood(
        self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prompts: Tensor | None
    ) -> Tensor:
        """log p(target | prompt, input) of each row, summed over the target's tokens: [B], float32.

        Differentiable with respect to `prompts`.
        """

    @abstractmethod
    def target_cross_entropy(
        self,
        inputs: Sequence[TokenIds],
        targets: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Cross-entropy of each row's target, the mean over its tokens: [B], float32.

        With `label_smoothing` s, each token's target is 1 - s on the token and s spread evenly over the vocabulary.
        Differentiable with respect to `prompts`.
        """

    @abstractmethod
    def score_labels(self, inputs: Sequence[TokenIds], labels: Sequence[TokenIds], prompts: Tensor | None) -> Tensor:
        """Log-likelihood of every label's text for every row, divided by its number of tokens: [B, C], float32."""

    @abstractmethod
    def generate(
        self,
        inputs: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        max_new_tokens: int | None = None,
        use_cache: bool = True,
    ) -> list[str]:
        """Greedy continuation of each row, special tokens and surrounding white space removed.

        Without `max_new_tokens` it is 64 tokens long at most, or fewer where input and answer share little room.
        `use_cache=False` reads the whole row again for each token: slow, and the measure of the cached path.
        """
