"""What `seq2seq` and `causal` backbones share: loss, label scores and greedy text on top of two forward passes."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ipt.backbones.batching import buckets_for, forward_in_buckets, max_positions_per_pass, right_padded, to_device
from ipt.backbones.interface import BackboneIdentity, TextBackbone, TokenIds
from ipt.errors import BackboneError

# The target of a position that counts for nothing.
IGNORED = -100
# Label tokens scored in one pass: each has logits over the whole vocabulary.
SCORED_TOKENS = 512
MAX_NEW_TOKENS = 64
"""Of an answer, where nobody says otherwise."""


class Decoding(Protocol):
    """Rows that have been read (prompt, input and start tokens), ready to be continued."""

    logits: Tensor
    """Of the next token: [B, V]."""

    def extend(self, tokens: Tensor) -> Tensor:
        """Read `tokens` [B, L]; the logits after each of them, [B, L, V]. Advances the state."""

    def select(self, wanted: Tensor) -> Self:
        """A copy of the rows with these numbers, in this order and as often; the original stays as it is.

        `wanted` [R] is on the CPU.
        """

    def merge(self, other: Self) -> Self | None:
        """These rows and then the other's, to go on together; None where rows must have begun together."""


class PromptedTextBackbone(TextBackbone):
    """A frozen text backbone; a family adds how a row is read, whole (`_target_logits`) or step by step (`prefill`)."""

    max_target_tokens: int

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, identity: BackboneIdentity, *, max_positions: int
    ) -> None:
        config: Any = model.config
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.identity = identity
        self.hidden_size = int(config.hidden_size)
        self.max_positions = max_positions
        self.max_target_tokens = max_positions // 2
        self.stop_tokens = _stop_tokens(model, tokenizer)

    @abstractmethod
    def _target_logits(self, inputs: Sequence[TokenIds], targets: Tensor, prompts: Tensor | None) -> Tensor:
        """Logits [B, L, V] for each token of right-padded `targets` [B, L] (on the CPU), given the tokens before it."""

    @abstractmethod
    def prefill(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> Decoding:
        """Read prompt and input of each row once, keeping keys and values; the rows must fit, as `fitted` ones do."""

    @abstractmethod
    def prefill_prompts(self, prompts: Tensor) -> Tensor:
        """What `prefill_after_prompts` needs of prompts [J, P, H], for as often as they are used: [J, …]."""

    @abstractmethod
    def prefill_after_prompts(self, inputs: Sequence[TokenIds], read: Tensor) -> Decoding:
        """The same as `prefill`, given what `prefill_prompts` made of each row's prompt: [B, …]."""

    @abstractmethod
    def _shorten(self, row: TokenIds, room: int) -> TokenIds:
        """The row cut to `room` tokens."""

    @abstractmethod
    def _room(self, prompt_length: int, target_length: int) -> int:
        """Input tokens that fit beside a prompt and a target of these lengths."""

    def max_input_tokens(self, prompt_length: int) -> int:
        return self._room(prompt_length, self.default_new_tokens(prompt_length))

    def default_new_tokens(self, prompt_length: int) -> int:
        """Most tokens of an answer where nobody says: where it takes room of the input's, at most half of that."""
        usual = min(MAX_NEW_TOKENS, self.max_target_tokens)
        room = self._room(prompt_length, 0)
        return usual if self._room(prompt_length, usual) == room else max(1, min(usual, room // 2))

    def decode(self, tokens: TokenIds) -> str:
        """The text of written tokens as it is, white space included, without special tokens."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def fitted(self, row: TokenIds, prompt_length: int, target_length: int) -> TokenIds:
        """The row, shortened as `tokenize` shortens it where it does not fit beside prompt and target.

        Raises:
            BackboneError: these alone leave no room.
        """
        room = self._room(prompt_length, target_length)
        if room < 1:
            raise BackboneError(
                f"a soft prompt of {prompt_length} and a target of {target_length} positions leave no room for text: "
                f"the model attends to {self.max_positions} positions",
                param="prompts",
            )
        return row if len(row) <= room else self._shorten(row, room)

    def target_log_likelihood(
        self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prompts: Tensor | None
    ) -> Tensor:
        return -self._target_losses(inputs, targets, prompts, label_smoothing=0.0)

    def target_cross_entropy(
        self,
        inputs: Sequence[TokenIds],
        targets: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        losses = self._target_losses(inputs, targets, prompts, label_smoothing=label_smoothing)
        return losses / to_device(torch.tensor([len(target) for target in targets]), losses.device)

    def _target_losses(
        self,
        inputs: Sequence[TokenIds],
        targets: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        label_smoothing: float,
    ) -> Tensor:
        """Cross-entropy summed over each row's target: [B], float32."""
        if len(targets) != len(inputs):
            raise BackboneError(f"{len(inputs)} inputs have {len(targets)} targets", param="targets")
        self._check_targets(targets, "targets")
        rows, prompts = self._prepare(inputs, prompts, max(map(len, targets), default=0))
        if not rows:
            return torch.zeros(0, device=self.device)

        def losses(bucket: list[int], own: Tensor | None) -> Tensor:
            padded, _ = right_padded([targets[row] for row in bucket], padding=IGNORED)
            logits = self._target_logits([rows[row] for row in bucket], padded.clamp(min=0), own)
            padded = to_device(padded, self.device)
            flat = cross_entropy(
                logits.flatten(0, 1).float(), padded.flatten(), reduction="none", label_smoothing=label_smoothing
            )
            return flat.view(padded.shape).sum(dim=1)

        prompt_length = 0 if prompts is None else prompts.shape[1]
        lengths = [prompt_length + len(row) + len(target) for row, target in zip(rows, targets, strict=True)]
        return forward_in_buckets(lengths, prompts, self.device, self.hidden_size, losses)

    def score_labels(self, inputs: Sequence[TokenIds], labels: Sequence[TokenIds], prompts: Tensor | None) -> Tensor:
        self._check_targets(labels, "labels")
        rows, prompts = self._prepare(inputs, prompts, max(map(len, labels), default=0))
        if not rows or not labels:
            return torch.zeros(len(rows), len(labels), device=self.device)
        lengths = torch.tensor([len(label) for label in labels], device=self.device)

        def scores(bucket: list[int], own: Tensor | None) -> Tensor:
            longest = prompt_length + max(len(rows[row]) for row in bucket)
            return self._label_sums(self.prefill([rows[row] for row in bucket], own), labels, longest) / lengths

        prompt_length = 0 if prompts is None else prompts.shape[1]
        read = [prompt_length + len(row) for row in rows]
        return forward_in_buckets(read, prompts, self.device, self.hidden_size, scores)

    def _label_sums(self, decoding: Decoding, labels: Sequence[TokenIds], row_length: int) -> Tensor:
        """Summed log-probabilities [B, C] of labels that continue rows read once: only the labels' tokens are new.

        `row_length` is that of the longest row, in positions.
        """
        device, rows = self.device, decoding.logits.shape[0]
        first = log_softmax(decoding.logits.float(), dim=-1)[:, [label[0] for label in labels]]
        longest_tail = max(len(label) for label in labels) - 1
        if longest_tail == 0:
            return first
        # A row is repeated for each label, with the keys and values of all that it has read.
        with_room = max_positions_per_pass(device) // (rows * (row_length + longest_tail))
        at_once = max(1, min(SCORED_TOKENS // (rows * longest_tail), with_room))
        sums = []
        for start in range(0, len(labels), at_once):
            group = labels[start : start + at_once]
            read, _ = right_padded([label[:-1] for label in group])
            wanted, _ = right_padded([label[1:] for label in group], padding=IGNORED)
            if wanted.shape[1] == 0:
                sums.append(torch.zeros(rows, len(group), device=device))
                continue
            repeated = decoding.select(torch.arange(rows).repeat_interleave(len(group)))
            logits = repeated.extend(read.to(device).repeat(rows, 1))
            wanted = wanted.to(device).repeat(rows, 1)
            losses = cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
            sums.append(-losses.view(rows, len(group), -1).sum(dim=2))
        return first + torch.cat(sums, dim=1)

    def generate(
        self,
        inputs: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        max_new_tokens: int | None = None,
        use_cache: bool = True,
    ) -> list[str]:
        prompt_length = 0 if prompts is None else prompts.shape[1]
        if max_new_tokens is None:
            max_new_tokens = self.default_new_tokens(prompt_length)
        max_new_tokens = min(max_new_tokens, self.max_target_tokens)
        rows, prompts = self._prepare(inputs, prompts, max_new_tokens)
        written: list[TokenIds] = [[] for _ in rows]
        with torch.no_grad():
            for bucket in buckets_for([prompt_length + len(row) for row in rows], self.device, self.hidden_size):
                own = None if prompts is None else prompts[bucket]
                answers = self._greedy([rows[row] for row in bucket], own, max_new_tokens, use_cache)
                for row, answer in zip(bucket, answers, strict=True):
                    written[row] = answer
        return [self.decode(answer).strip() for answer in written]

    def _greedy(
        self, rows: list[TokenIds], prompts: Tensor | None, max_new_tokens: int, use_cache: bool
    ) -> list[TokenIds]:
        decoding = self.prefill(rows, prompts) if use_cache else None
        written: list[TokenIds] = [[] for _ in rows]
        open_rows = set(range(len(rows)))
        for step in range(max_new_tokens):
            if decoding is None:
                # One token more than was written: the logits of a target's last token do not depend on it.
                logits = self._target_logits(rows, torch.tensor([[*answer, 0] for answer in written]), prompts)[:, -1]
            elif step == 0:
                logits = decoding.logits
            else:
                logits = decoding.extend(torch.tensor([[answer[-1]] for answer in written], device=self.device))[:, -1]
            for row, token in enumerate(logits.argmax(dim=-1).tolist()):
                # A row that has stopped goes on unread, so that the batch keeps its shape.
                written[row].append(token)
                if token in self.stop_tokens:
                    open_rows.discard(row)
            if not open_rows:
                break
        return [self._until_stop(answer) for answer in written]

    def _until_stop(self, answer: TokenIds) -> TokenIds:
        ends = [position for position, token in enumerate(answer) if token in self.stop_tokens]
        return answer[: ends[0]] if ends else answer

    def _prepare(
        self, inputs: Sequence[TokenIds], prompts: Tensor | None, target_length: int
    ) -> tuple[list[TokenIds], Tensor | None]:
        """Rows short enough to be read with prompt and target, and the checked prompts."""
        prompts = self._check_prompts(prompts, len(inputs))
        prompt_length = 0 if prompts is None else prompts.shape[1]
        for position, row in enumerate(inputs):
            if not row:
                raise BackboneError(f"row {position} has no tokens", param=f"inputs[{position}]")
        return [self.fitted(row, prompt_length, target_length) for row in inputs], prompts

    def _check_targets(self, targets: Sequence[TokenIds], param: str) -> None:
        for position, target in enumerate(targets):
            if not 0 < len(target) <= self.max_target_tokens:
                raise BackboneError(
                    f"a target has {len(target)} tokens, expected 1 to {self.max_target_tokens}",
                    param=f"{param}[{position}]",
                )


def select_cache_rows(cache: Any, rows: Tensor) -> Any:
    """The key-value cache of these rows, whose numbers are on its device; the original stays as it is.

    A deep copy would refuse tensors that carry gradients. A shallow one is enough: to select rows, a layer replaces
    its tensors, and writes behind its own ones from then on.
    """
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    twin.batch_select_indices(rows)
    return twin


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's own generation settings."""
    settings = model.generation_config.eos_token_id
    stops = set(settings if isinstance(settings, list) else [settings]) | {tokenizer.eos_token_id}
    stops.discard(None)
    if tokenizer.eos_token_id is None:
        raise BackboneError("the tokenizer has no end-of-sequence token, so no target could end", param="backbone")
    return frozenset(stops)
