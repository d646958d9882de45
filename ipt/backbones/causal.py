"""Decoder-only backbones (GPT-2, Llama, Qwen): the soft prompt stands before the input, and the target goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ipt.backbones.batching import right_padded
from ipt.backbones.protocol import BackboneIdentity, Family, TokenIds
from ipt.backbones.text import Decoding, PromptedTextBackbone, copied_layers


class CausalBackbone(PromptedTextBackbone):
    """A frozen decoder-only language model.

    A row is prompt, input, target, in a piece and from position 0; padding follows it, where nothing that counts can
    see it. So a whole row needs no mask at all, and only a continued one has a gap that the mask hides.
    """

    family: ClassVar[Family] = "causal"

    def __init__(self, model: torch.nn.Module, tokenizer: Any, identity: BackboneIdentity) -> None:
        config: Any = model.config
        positions = int(config.max_position_embeddings)
        if "sliding_attention" in (getattr(config, "layer_types", None) or []):
            # Within the window every layer attends to everything, so that the cache keeps all positions.
            positions = min(positions, int(config.sliding_window))
        super().__init__(model, tokenizer, identity, max_positions=positions)

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Token ids of each text, special tokens included; a long text loses its beginning: its end leads on."""
        if not texts:
            return []
        ids = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        # An empty text must still have a token to go on from.
        nothing = [self.tokenizer.eos_token_id if start is None else start]
        longest = min(max_tokens or self.max_positions, self.max_positions)
        return [self._shorten(row, longest) if row else nothing for row in ids]

    def tokenize_targets(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text as it reads after a space, end-of-sequence included."""
        if not texts:
            return []
        # Tokenizers differ in how a leading space is written; after a colon each shows its own way.
        lead = self.tokenizer(":", add_special_tokens=False)["input_ids"]
        led = self.tokenizer([f": {text}" for text in texts], add_special_tokens=False, verbose=False)["input_ids"]
        alone = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        bare = [row[len(lead) :] if row[: len(lead)] == lead else plain for row, plain in zip(led, alone, strict=True)]
        return [[*row[: self.max_target_tokens - 1], self.tokenizer.eos_token_id] for row in bare]

    def _shorten(self, row: TokenIds, room: int) -> TokenIds:
        if len(row) <= room:
            return row
        if row[0] == self.tokenizer.bos_token_id and room > 1:
            return [row[0], *row[len(row) - room + 1 :]]
        return row[len(row) - room :]

    def _room(self, prompt_length: int, target_length: int) -> int:
        return self.max_positions - prompt_length - target_length

    def _read(self, ids: Tensor, prompts: Tensor | None, use_cache: bool) -> Any:
        """The model without its head, over prompt and right-padded ids [B, T]."""
        model: Any = self.model
        embeds = model.get_input_embeddings()(ids.to(self.device))
        if prompts is not None:
            embeds = torch.cat([prompts, embeds], dim=1)
        return model.base_model(inputs_embeds=embeds, use_cache=use_cache)

    def _target_logits(self, inputs: Sequence[TokenIds], targets: Tensor, prompts: Tensor | None) -> Tensor:
        read = [[*row, *target[:-1]] for row, target in zip(inputs, targets.tolist(), strict=True)]
        ids, _ = right_padded(read)
        states = self._read(ids, prompts, use_cache=False).last_hidden_state
        prompt_length = 0 if prompts is None else prompts.shape[1]
        # The token before a target's first is the input's last. Only these positions go through the head.
        before = torch.tensor([prompt_length + len(row) - 1 for row in inputs], device=self.device)
        wanted = before[:, None] + torch.arange(targets.shape[1], device=self.device)
        return self._head(states[torch.arange(len(inputs), device=self.device)[:, None], wanted])

    def _begin(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> Decoding:
        ids, lengths = right_padded(inputs)
        answer = self._read(ids, prompts, use_cache=True)
        prompt_length = 0 if prompts is None else prompts.shape[1]
        length = (prompt_length + lengths).to(self.device)
        last = answer.last_hidden_state[torch.arange(len(inputs), device=self.device), length - 1]
        positions = torch.arange(prompt_length + ids.shape[1], device=self.device)
        mask = (positions < length[:, None]).long()
        return _CausalDecoding(self.model, self._head(last), mask, length, answer.past_key_values)

    def _head(self, states: Tensor) -> Tensor:
        model: Any = self.model
        logits: Tensor = model.get_output_embeddings()(states)
        return logits


@dataclass
class _CausalDecoding:
    model: Any
    logits: Tensor
    mask: Tensor
    next_position: Tensor
    """[B]"""
    cache: Any

    def extend(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], dim=1)
        answer = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=self.next_position[:, None] + torch.arange(tokens.shape[1], device=tokens.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.next_position = self.next_position + tokens.shape[1]
        self.cache = answer.past_key_values
        logits: Tensor = answer.logits
        self.logits = logits[:, -1]
        return logits

    def repeated(self, times: int) -> Self:
        return type(self)(
            self.model,
            self.logits.repeat_interleave(times, dim=0),
            self.mask.repeat_interleave(times, dim=0),
            self.next_position.repeat_interleave(times, dim=0),
            copied_layers(self.cache, times),
        )
