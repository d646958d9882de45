"""The common part of `seq2seq` and `causal` backbones: loss, label scores and greedy decoding."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ipt.backbones.batching import buckets_for, forward_in_buckets, max_positions_per_pass, right_padded, to_device
from ipt.backbones.interface import Answer, BackboneIdentity, TextBackbone, TokenIds
from ipt.errors import BackboneError

IGNORED = -100
"""Target of a padding position, which the loss ignores."""
SCORED_TOKENS = 512
"""Most label tokens scored in one pass; each has logits over the whole vocabulary."""
MAX_NEW_TOKENS = 64
"""Default length of an answer."""


class Decoding(Protocol):
    """The decoding state of rows whose prompt, input and start tokens have been read. V: vocabulary size."""

    logits: Tensor
    """Logits of the next token, [B, V]."""

    def extend(self, tokens: Tensor) -> Tensor:
        """Read `tokens` [B, L], advance the state, and return the logits after each token, [B, L, V]."""

    def select(self, rows: Tensor) -> Self:
        """Return a copy with the rows of these numbers [R], on the CPU, in this order; a number may repeat."""

    def merge(self, other: Self) -> Self | None:
        """Return one state of these rows and then the other's, or None if the family cannot merge them."""


class PromptedTextBackbone(TextBackbone):
    """A frozen text backbone. A family adds two forward passes: of whole rows (`_target_logits`) and `prefill`."""

    max_target_tokens: int
    shares_prompts: ClassVar[bool] = False
    """Whether `prefill_prompts` reads the prompts, so that rows can share what was read."""
    min_input_tokens: int = 1
    """Fewest tokens of a row: one of the text, and those that the placement puts after it."""

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
        self.vocabulary_size = int(config.vocab_size)
        self.stop_tokens = _stop_tokens(model, tokenizer)

    @abstractmethod
    def _target_logits(self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prompts: Tensor | None) -> Tensor:
        """Return the logits [N, V] that predict the tokens of all targets, one row's after the other's.

        They are packed, because targets differ in length, and a large vocabulary makes their padding expensive.
        """

    def _target_logits_after(
        self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prefilled: Tensor | None
    ) -> Tensor:
        """Do the same as `_target_logits`, given what `prefill_prompts` returned for each row's prompt: [B, …].

        Only a family that sets `shares_prompts` has it.
        """
        raise NotImplementedError

    @abstractmethod
    def prefill(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> Decoding:
        """Read prompt and input of each row and keep keys and values. The rows must fit, as `fit_input` makes them."""

    @abstractmethod
    def prefill_prompts(self, prompts: Tensor) -> Tensor:
        """Compute what `prefill_after_prompts` can reuse of prompts [J, P, H]: [J, …]."""

    @abstractmethod
    def prefill_after_prompts(self, inputs: Sequence[TokenIds], prefilled: Tensor) -> Decoding:
        """Do the same as `prefill`, given what `prefill_prompts` returned for each row's prompt: [B, …]."""

    @abstractmethod
    def _shorten(self, row: TokenIds, room: int) -> TokenIds:
        """Return the row cut to `room` tokens."""

    @abstractmethod
    def _room(self, prompt_length: int, target_length: int) -> int:
        """Return the most input tokens that fit beside a prompt and a target of these lengths."""

    def max_input_tokens(self, prompt_length: int) -> int:
        return self._room(prompt_length, self.default_new_tokens(prompt_length))

    def default_new_tokens(self, prompt_length: int) -> int:
        """Return the default length of an answer: at most half of the room if input and answer share it."""
        default = min(MAX_NEW_TOKENS, self.max_target_tokens)
        room = self._room(prompt_length, 0)
        return default if self._room(prompt_length, default) == room else max(1, min(default, room // 2))

    def decode(self, tokens: TokenIds) -> str:
        """Return the text of generated tokens, with its white space and without special tokens."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def fit_input(self, row: TokenIds, prompt_length: int, target_length: int) -> TokenIds:
        """Return the row, cut in the same way as by `tokenize` if it does not fit beside prompt and target.

        Raises:
            BackboneError: prompt and target leave no room for text.
        """
        room = self._room(prompt_length, target_length)
        if room < self.min_input_tokens:
            raise BackboneError(
                f"a soft prompt of {self.input_positions(prompt_length)} and a target of {target_length} positions "
                f"leave no room for text: the model attends to {self.max_positions} positions",
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
        prompt_of_row: Sequence[int] | None = None,
    ) -> Tensor:
        losses = self._target_losses(
            inputs, targets, prompts, label_smoothing=label_smoothing, prompt_of_row=prompt_of_row
        )
        return losses / to_device(torch.tensor([len(target) for target in targets]), losses.device)

    def _target_losses(
        self,
        inputs: Sequence[TokenIds],
        targets: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        label_smoothing: float,
        prompt_of_row: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the cross-entropy summed over each row's target: [B], float32."""
        if len(targets) != len(inputs):
            raise BackboneError(f"{len(inputs)} inputs have {len(targets)} targets", param="targets")
        self._check_targets(targets, "targets")
        shared = None
        if prompts is not None and prompt_of_row is not None:
            numbers = to_device(torch.tensor(prompt_of_row), prompts.device)
            distinct, prompts = prompts, prompts[numbers]
            if self.shares_prompts and distinct.shape[1]:
                shared = self.prefill_prompts(distinct)[numbers]
        rows, prompts = self._prepare(inputs, prompts, max(map(len, targets), default=0))
        if not rows:
            return torch.zeros(0, device=self.device)

        def losses(bucket: list[int], bucket_prompts: Tensor | None) -> Tensor:
            in_bucket = [targets[row] for row in bucket]
            read = self._target_logits if shared is None else self._target_logits_after
            logits = read([rows[row] for row in bucket], in_bucket, bucket_prompts)
            tokens = to_device(torch.tensor([token for target in in_bucket for token in target]), self.device)
            per_token = cross_entropy(logits.float(), tokens, reduction="none", label_smoothing=label_smoothing)
            sums = torch.zeros(len(bucket), device=self.device)
            return sums.index_add(0, to_device(row_of_tokens(in_bucket), self.device), per_token)

        prompt_length = 0 if prompts is None or shared is not None else self.input_positions(prompts.shape[1])
        lengths = [prompt_length + len(row) + len(target) for row, target in zip(rows, targets, strict=True)]
        return forward_in_buckets(lengths, prompts if shared is None else shared, self.device, self.hidden_size, losses)

    def score_labels(self, inputs: Sequence[TokenIds], labels: Sequence[TokenIds], prompts: Tensor | None) -> Tensor:
        self._check_targets(labels, "labels")
        rows, prompts = self._prepare(inputs, prompts, max(map(len, labels), default=0))
        if not rows or not labels:
            return torch.zeros(len(rows), len(labels), device=self.device)
        label_lengths = torch.tensor([len(label) for label in labels], device=self.device)

        def scores(bucket: list[int], bucket_prompts: Tensor | None) -> Tensor:
            longest = prompt_length + max(len(rows[row]) for row in bucket)
            decoding = self.prefill([rows[row] for row in bucket], bucket_prompts)
            return self._label_sums(decoding, labels, longest) / label_lengths

        prompt_length = 0 if prompts is None else self.input_positions(prompts.shape[1])
        row_lengths = [prompt_length + len(row) for row in rows]
        return forward_in_buckets(row_lengths, prompts, self.device, self.hidden_size, scores)

    def _label_sums(self, decoding: Decoding, labels: Sequence[TokenIds], row_length: int) -> Tensor:
        """Return the log-probability of each label after each row, summed over its tokens: [B, C].

        Reads only the labels' tokens; the rows were read by `decoding`, the longest one of `row_length` positions.
        """
        device, rows = self.device, decoding.logits.shape[0]
        first = log_softmax(decoding.logits.float(), dim=-1)[:, [label[0] for label in labels]]
        longest_tail = max(len(label) for label in labels) - 1
        if longest_tail == 0:
            return first
        # Each row is repeated for each label of a group, with its keys and values.
        fitting = max_positions_per_pass(device) // (rows * (row_length + longest_tail))
        group_size = max(1, min(SCORED_TOKENS // (rows * longest_tail), fitting))
        sums = []
        for start in range(0, len(labels), group_size):
            group = labels[start : start + group_size]
            tokens, _ = right_padded([label[:-1] for label in group])
            targets, _ = right_padded([label[1:] for label in group], padding=IGNORED)
            if targets.shape[1] == 0:
                sums.append(torch.zeros(rows, len(group), device=device))
                continue
            repeated = decoding.select(torch.arange(rows).repeat_interleave(len(group)))
            logits = repeated.extend(tokens.to(device).repeat(rows, 1))
            targets = targets.to(device).repeat(rows, 1)
            losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
            sums.append(-losses.view(rows, len(group), -1).sum(dim=2))
        return first + torch.cat(sums, dim=1)

    def answer(
        self,
        inputs: Sequence[TokenIds],
        prompts: Tensor | None,
        *,
        max_new_tokens: int | None = None,
        use_cache: bool = True,
    ) -> list[Answer]:
        prompt_length = 0 if prompts is None else prompts.shape[1]
        if max_new_tokens is None:
            max_new_tokens = self.default_new_tokens(prompt_length)
        max_new_tokens = min(max_new_tokens, self.max_target_tokens)
        rows, prompts = self._prepare(inputs, prompts, max_new_tokens)
        answers: dict[int, Answer] = {}
        with torch.no_grad():
            positions = 0 if prompts is None else self.input_positions(prompt_length)
            for bucket in buckets_for([positions + len(row) for row in rows], self.device, self.hidden_size):
                bucket_prompts = None if prompts is None else prompts[bucket]
                in_bucket = self._greedy([rows[row] for row in bucket], bucket_prompts, max_new_tokens, use_cache)
                answers.update(zip(bucket, in_bucket, strict=True))
        return [answers[row] for row in range(len(rows))]

    def _greedy(
        self, rows: list[TokenIds], prompts: Tensor | None, max_new_tokens: int, use_cache: bool
    ) -> list[Answer]:
        decoding = self.prefill(rows, prompts) if use_cache else None
        answers: list[TokenIds] = [[] for _ in rows]
        log_probabilities: list[Tensor] = []
        open_rows = set(range(len(rows)))
        for step in range(max_new_tokens):
            if decoding is None:
                # Any extra token will do: the logits that predict a target's last token do not depend on it.
                packed = self._target_logits(rows, [[*answer, 0] for answer in answers], prompts)
                logits = packed.unflatten(0, (len(rows), -1))[:, -1]
            elif step == 0:
                logits = decoding.logits
            else:
                logits = decoding.extend(torch.tensor([[answer[-1]] for answer in answers], device=self.device))[:, -1]
            log_probabilities.append(log_softmax(logits.float(), dim=-1).amax(dim=-1))
            for row, token in enumerate(logits.argmax(dim=-1).tolist()):
                # Rows that have stopped continue, so that the batch keeps its shape; `_until_stop` cuts them.
                answers[row].append(token)
                if token in self.stop_tokens:
                    open_rows.discard(row)
            if not open_rows:
                break
        if not log_probabilities:
            return [Answer("", 1.0) for _ in rows]
        by_row = torch.stack(log_probabilities, dim=1).cpu()
        return [self._until_stop(*pair) for pair in zip(answers, by_row, strict=True)]

    def _until_stop(self, tokens: TokenIds, log_probabilities: Tensor) -> Answer:
        """Return the answer up to its first stop token, given the log-probabilities of all tokens [L]."""
        stops = [position for position, token in enumerate(tokens) if token in self.stop_tokens]
        end = stops[0] if stops else len(tokens)
        confidence = log_probabilities[: end + 1].mean().exp().item()
        return Answer(self.decode(tokens[:end]).strip(), confidence)

    def _prepare(
        self, inputs: Sequence[TokenIds], prompts: Tensor | None, target_length: int
    ) -> tuple[list[TokenIds], Tensor | None]:
        """Return the rows, cut to fit beside prompt and target, and the checked prompts."""
        prompts = self._check_prompts(prompts, len(inputs))
        prompt_length = 0 if prompts is None else prompts.shape[1]
        for position, row in enumerate(inputs):
            if not row:
                raise BackboneError(f"row {position} has no tokens", param=f"inputs[{position}]")
        return [self.fit_input(row, prompt_length, target_length) for row in inputs], prompts

    def _check_targets(self, targets: Sequence[TokenIds], param: str) -> None:
        for position, target in enumerate(targets):
            if not 0 < len(target) <= self.max_target_tokens:
                raise BackboneError(
                    f"a target has {len(target)} tokens, expected 1 to {self.max_target_tokens}",
                    param=f"{param}[{position}]",
                )


def row_of_tokens(targets: Sequence[TokenIds]) -> Tensor:
    """Return the row number of each token of all targets, [N], on the CPU."""
    return torch.arange(len(targets)).repeat_interleave(torch.tensor([len(target) for target in targets]))


def select_cache_rows(cache: Any, rows: Tensor) -> Any:
    """Return a key-value cache of these row numbers, which are on the cache's device; `cache` stays unchanged.

    A deep copy fails on tensors with gradients. A shallow copy is enough, because selecting rows replaces a layer's
    tensors.
    """
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(rows)
    return selected


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the tokenizer's end-of-sequence and those of the generation config."""
    configured = model.generation_config.eos_token_id
    stops = set(configured if isinstance(configured, list) else [configured]) | {tokenizer.eos_token_id}
    stops.discard(None)
    if tokenizer.eos_token_id is None:
        raise BackboneError("the tokenizer has no end-of-sequence token, so no target could end", param="backbone")
    return frozenset(stops)
