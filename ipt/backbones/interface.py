"""The interface of a backbone: frozen weights, token ids, and a forward pass with one soft prompt per row.

Letters in shapes: B rows, T tokens, P prompt length, H hidden size, C classes.
Soft prompts are always ``[B, P, H]``, one for each row; ``None`` or P = 0 means no prompt. With the placements
`every_layer` and `upper_layers`, the P rows are keys and values of these layers (`ipt.backbones.prefix_attention`).
Rows may have any lengths: padding, masks, position ids and placement are up to the backbone.
"""

from __future__ import annotations

import copy
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from ipt.errors import BackboneError

Family = Literal["encoder", "seq2seq", "causal"]
EncoderPlacement = Literal["after_first_token", "before_first_token", "after_last_token", "every_layer", "upper_layers"]
CausalPlacement = Literal["before_input", "user_turn", "every_layer"]
Placement = Literal[EncoderPlacement, CausalPlacement]
"""Where the prompt is put: relative to an encoder's special tokens, as keys and values at every layer (encoder, causal)
or at the upper third of the layers (encoder), before the input of other families, or before the input within a user's
turn of the chat template."""
PLACEMENTS: dict[str, tuple[Placement, ...]] = {
    "encoder": get_args(EncoderPlacement),
    "seq2seq": ("before_input",),
    "causal": get_args(CausalPlacement),
}
"""The placements that each family supports; the first one is the default."""
MIN_TEXT_POSITIONS: dict[Family, int] = {"encoder": 3, "seq2seq": 2, "causal": 2}
"""Positions that a text needs besides the prompt: one token, plus two special tokens or one token of the answer."""
PLAIN_TEMPLATE = "{input}"
"""The template of a placement that puts no text around the input."""
TokenIds = list[int]


@dataclass(frozen=True)
class Answer:
    """A generated text."""

    text: str
    """Without special tokens and surrounding white space."""
    confidence: float
    """The geometric mean of the probabilities of its tokens, the one that ends it included."""


@dataclass(frozen=True)
class BackboneIdentity:
    """What identifies a frozen model: the same identity means the same function."""

    id: str
    revision: str | None
    weights_sha256: str


def prompt_identity(
    weights_sha256: str, family: str, placement: str, template: str, shared_prompt: Tensor | None = None
) -> str:
    """Return a SHA-256 of all that a prompt's meaning depends on; with the default placement, the weights' hash."""
    if placement == PLACEMENTS[family][0]:
        return weights_sha256
    text = "" if template == PLAIN_TEMPLATE else f" {template}"
    digest = hashlib.sha256(f"{placement} {weights_sha256}{text}".encode())
    if shared_prompt is not None:
        digest.update(shared_prompt.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def known_placement(family: Family, placement: str) -> Placement:
    """Return a prompt placement that backbones of a family can have.

    Raises:
        BackboneError: they have no such placement; the message lists theirs.
    """
    for known in PLACEMENTS[family]:
        if known == placement:
            return known
    expected = ", ".join(PLACEMENTS[family])
    raise BackboneError(
        f"unknown prompt placement {placement!r}; expected one of: {expected}", param="prompt_placement"
    )


class Backbone(ABC):
    """A frozen pre-trained language model with its tokenizer."""

    family: ClassVar[Family]

    identity: BackboneIdentity
    tokenizer: Any
    hidden_size: int
    max_positions: int
    """Most positions of an input, prompt included, that the model can attend to."""
    model: torch.nn.Module
    """The frozen transformers model, in eval mode, without gradients of its parameters."""
    prompt_placement: Placement
    shared_prompt: Tensor | None = None
    """Keys and values [rows, H] of the layers below the prompted ones, which all prompted rows read."""
    template: str = PLAIN_TEMPLATE
    """What the model reads, as text with the placeholder {input}, and {prompt} if the placement puts text before it."""

    def placed(self, placement: str) -> Backbone:
        """Return this backbone with another prompt placement; both share the model.

        Raises:
            BackboneError: the family does not support the placement.
        """
        if placement != self.prompt_placement:
            raise BackboneError(
                f"unknown prompt placement {placement!r}; expected {self.prompt_placement}", param="prompt_placement"
            )
        return self

    @property
    def fit_placement(self) -> str:
        """The prompt placement with which a subspace is fitted if its caller does not choose one."""
        return self.prompt_placement

    def with_shared_prompt(self, prompt: Tensor) -> Backbone:
        """Return this backbone with keys and values below its prompted layers that all prompted rows read.

        Args:
            prompt: [rows, H], the keys and values of each layer below the prompted ones, as in a prompt.

        Raises:
            BackboneError: the prompt placement leaves no layers below, or the prompt has another shape.
        """
        raise BackboneError(
            f"the prompt placement {self.prompt_placement!r} has no layers below the prompt, for which {len(prompt)} "
            "shared rows were given",
            param="prompt_placement",
        )

    def with_own_tokenizer(self) -> Self:
        """Return this backbone with a copy of its tokenizer, because no two threads may use one at the same time."""
        other = copy.copy(self)
        other.tokenizer = copy.deepcopy(self.tokenizer)
        return other

    def input_positions(self, prompt_length: int) -> int:
        """Return how many positions of the input a prompt of P = `prompt_length` takes: none in layers."""
        return 0 if self.prompted_layers else prompt_length

    @property
    def prompted_layers(self) -> int:
        """Number of layers, counted from the last, that read a prompt as keys and values; 0: the input has it."""
        if self.prompt_placement == "upper_layers":
            return max(1, self.layer_count // 3)
        return self.layer_count if self.prompt_placement == "every_layer" else 0

    @property
    def _rows_per_position(self) -> int:
        """Rows P of a prompt for each of its positions: in layers, enough for a key and a value of each layer."""
        return max(1, math.ceil(2 * self.prompted_layers * self._key_size / self.hidden_size))

    @property
    def _key_size(self) -> int:
        """Numbers of a key (or a value) of one position in one layer, all heads together."""
        return self.hidden_size

    def prompt_rows(self, positions: int) -> int:
        """Return the rows P of a prompt of this many positions."""
        return self._rows_per_position * positions

    def prompt_words(self, prompt_length: int) -> int:
        """Return how many tokens the rows of a prompt stand for, the inverse of `prompt_rows`."""
        return prompt_length // self._rows_per_position

    def check_room(self, prompt_length: int) -> None:
        """Check that prompts of `prompt_length` rows fit this backbone and leave room for text.

        Raises:
            BackboneError: they do not.
        """
        self._check_whole_layers(prompt_length, "prompt_length")
        words = self.prompt_words(prompt_length)
        if self.prompted_layers and words > self.max_positions:
            raise BackboneError(
                f"a prompt of {words} positions in each layer is too long: {self.identity.id!r} attends to "
                f"{self.max_positions} positions",
                param="prompt_length",
            )
        if self.max_positions - self.input_positions(prompt_length) < self.min_text_positions:
            raise BackboneError(
                f"a soft prompt of {prompt_length} positions leaves no room for text: {self.identity.id!r} attends to "
                f"{self.max_positions} positions",
                param="prompt_length",
            )

    @property
    def min_text_positions(self) -> int:
        """Positions that a text needs besides the prompt."""
        return MIN_TEXT_POSITIONS[self.family]

    def _check_whole_layers(self, prompt_length: int, param: str) -> None:
        rows = self._rows_per_position
        if prompt_length % rows:
            raise BackboneError(
                f"a prompt in the layers has {rows} rows for each position (keys and values of {self.prompted_layers} "
                f"layers), so its length must be a multiple of {rows}, got {prompt_length}",
                param=param,
            )

    def prompts_of_tokens(self, ids: Tensor) -> Tensor:
        """Return prompts that the model reads like the tokens `ids` [N, P]: their embeddings [N, P, H]."""
        prompts: Tensor = self.input_embeddings(ids.to(self.device))
        return prompts

    @property
    def prompt_identity(self) -> str:
        """Hash of everything that the meaning of this backbone's prompts depends on."""
        return prompt_identity(
            self.identity.weights_sha256, self.family, self.prompt_placement, self.template, self.shared_prompt
        )

    @property
    def layer_count(self) -> int:
        """Number of layers of the whole model."""
        config: Any = self.model.config
        return int(config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def input_embeddings(self) -> torch.nn.Embedding:
        """The embeddings of the tokens of an input."""
        model: Any = self.model
        embeddings: torch.nn.Embedding = model.get_input_embeddings()
        return embeddings

    @abstractmethod
    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Return the token ids of input texts, special tokens included, cut to `max_tokens` and `max_positions`."""

    @abstractmethod
    def max_input_tokens(self, prompt_length: int) -> int:
        """Return the most tokens of an input that fit beside a prompt and, in a text backbone, a default answer."""

    def tokenize_flagged(self, texts: Sequence[str], prompt_length: int) -> list[tuple[TokenIds, bool]]:
        """Return the token ids of each text, and whether the text is too long to be read whole after a prompt."""
        limit = self.max_input_tokens(prompt_length)
        return [(row, len(row) > limit) for row in self.tokenize(texts)]

    def _check_prompts(self, prompts: Tensor | None, rows: int) -> Tensor | None:
        """Return `prompts` as [rows, P, H] in the device and dtype of the embeddings, or None when P is 0.

        Raises:
            BackboneError: the prompts have another shape.
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
        self._check_whole_layers(prompts.shape[1], "prompts")
        return prompts.to(self.input_embeddings.weight)


class TextBackbone(Backbone):
    """A backbone that writes text (`seq2seq`, `causal`).

    Inputs come from `tokenize`, targets and labels from `tokenize_targets`. An input that does not fit beside the
    prompt (and, for `causal`, the target) is cut in the same way as by `tokenize`.
    """

    prompt_placement: Placement = "before_input"

    @abstractmethod
    def tokenize_targets(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the token ids of target texts, end-of-sequence included, cut to half of `max_positions`."""

    @abstractmethod
    def target_log_likelihood(
        self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prompts: Tensor | None
    ) -> Tensor:
        """Return log p(target | prompt, input) of each row, summed over the target's tokens: [B], float32.

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
        prompt_of_row: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the cross-entropy of each row's target, averaged over its tokens: [B], float32.

        With `prompt_of_row`, rows share prompts [J, P, H], and it says which one each row has. Where the prompt does
        not depend on the input, it is then read once for all of its rows.

        With `label_smoothing` s, each token's target is 1 - s on the token and s spread evenly over the vocabulary.
        Differentiable with respect to `prompts`.
        """

    @abstractmethod
    def score_labels(self, inputs: Sequence[TokenIds], labels: Sequence[TokenIds], prompts: Tensor | None) -> Tensor:
        """Return each label's log-likelihood for each row, divided by its number of tokens: [B, C], float32."""

    def generate(
        self,
        inputs: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        max_new_tokens: int | None = None,
        use_cache: bool = True,
    ) -> list[str]:
        """Return the texts of `answer`."""
        answers = self.answer(inputs, prompts, max_new_tokens=max_new_tokens, use_cache=use_cache)
        return [answer.text for answer in answers]

    @abstractmethod
    def answer(
        self,
        inputs: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        max_new_tokens: int | None = None,
        use_cache: bool = True,
    ) -> list[Answer]:
        """Return the greedy continuation of each row.

        Args:
            max_new_tokens: 64 when None, or fewer if input and answer share little room.
            use_cache: False reads the whole row again for each token: slow, and the reference for the cached path.
        """
