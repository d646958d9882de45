"""Decoder-only backbones (GPT-2, Llama, Qwen): the soft prompt stands before the input, and the target goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from ipt.backbones.batching import right_padded, to_device
from ipt.backbones.interface import BackboneIdentity, Family, TokenIds
from ipt.backbones.text_backbone import Decoding, PromptedTextBackbone, select_cache_rows


class CausalBackbone(PromptedTextBackbone):
    """A frozen decoder-only language model.

    A row is prompt, input, target, in a piece and from position 0; padding follows it, where nothing that counts can
    see it. So a whole row needs no mask at all. Rows that are continued end together, and a mask hides what fills up
    the shorter ones before their beginning.
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

    def _read(self, ids: Tensor, prompts: Tensor | None, cache: Any = None) -> Tensor:
        """States [B, P + T, H] of the model without its head, over prompt and right-padded ids [B, T].

        Keys and values are added to `cache`, where there is one.
        """
        model: Any = self.model
        embeds = model.get_input_embeddings()(to_device(ids, self.device))
        if prompts is not None:
            embeds = torch.cat([prompts, embeds], dim=1)
        answer = model.base_model(inputs_embeds=embeds, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = answer.last_hidden_state
        return states

    def _target_logits(self, inputs: Sequence[TokenIds], targets: Tensor, prompts: Tensor | None) -> Tensor:
        read = [[*row, *target[:-1]] for row, target in zip(inputs, targets.tolist(), strict=True)]
        ids, _ = right_padded(read)
        states = self._read(ids, prompts)
        prompt_length = 0 if prompts is None else prompts.shape[1]
        # The token before a target's first is the input's last. Only these positions go through the head.
        before = torch.tensor([prompt_length + len(row) - 1 for row in inputs])
        wanted = to_device(before[:, None] + torch.arange(targets.shape[1]), self.device)
        return self._head(states[torch.arange(len(inputs), device=self.device)[:, None], wanted])

    def prefill(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> Decoding:
        return self._begin(inputs, prompts, [])

    def prefill_prompts(self, prompts: Tensor) -> Tensor:
        """Keys and values of each prompt: [J, 2 x layers, heads, P, size of a head]."""
        cache = _cache()
        model: Any = self.model
        model.base_model(inputs_embeds=prompts.to(self.dtype), past_key_values=cache, use_cache=True)
        return torch.stack([part for layer in cache.layers for part in (layer.keys, layer.values)], dim=1)

    def prefill_after_prompts(self, inputs: Sequence[TokenIds], read: Tensor) -> Decoding:
        parts = read.unbind(dim=1)
        return self._begin(inputs, None, list(zip(parts[::2], parts[1::2], strict=True)))

    def _begin(
        self, inputs: Sequence[TokenIds], prompts: Tensor | None, past: Sequence[tuple[Tensor, Tensor]]
    ) -> _CausalDecoding:
        """Read the inputs behind prompts, or behind the keys and values that prompts have left in each layer."""
        ids, lengths = right_padded(inputs)
        cache = _cache(past, coming=ids.shape[1])
        states = self._read(ids, prompts, cache)
        ends = to_device(states.shape[1] - ids.shape[1] + lengths - 1, self.device)
        last = states[torch.arange(len(inputs), device=self.device), ends]
        lengths = lengths + cache.get_seq_length() - ids.shape[1]
        if int(lengths.min()) < cache.get_seq_length():
            _align(cache, to_device(lengths, self.device))
        return _CausalDecoding(self.model, self._head(last), lengths, cache)

    def _head(self, states: Tensor) -> Tensor:
        model: Any = self.model
        logits: Tensor = model.get_output_embeddings()(states)
        return logits


@dataclass
class _CausalDecoding:
    model: Any
    logits: Tensor
    lengths: Tensor
    """Positions that each row has filled, [B], on the CPU, so that knowing them never waits for the device."""
    cache: Any

    def extend(self, tokens: Tensor) -> Tensor:
        new = tokens.shape[1]
        total = self.cache.get_seq_length() + new
        positions = self.lengths[:, None] + torch.arange(new)
        self.lengths = self.lengths + new
        mask = None
        if int(self.lengths.min()) < total:
            mask = (torch.arange(total) >= total - self.lengths[:, None]).long().to(tokens.device)
        answer = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions.to(tokens.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = answer.logits
        self.logits = logits[:, -1]
        return logits

    def select(self, wanted: Tensor) -> Self:
        lengths, wanted = self.lengths[wanted], wanted.to(self.logits.device)
        cache = select_cache_rows(self.cache, wanted)
        surplus = self.cache.get_seq_length() - int(lengths.max())
        if surplus:  # the longest row has gone
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, surplus:], layer.values[:, :, surplus:]
        return type(self)(self.model, self.logits[wanted], lengths, cache)

    def merge(self, other: Self) -> Self | None:
        mine, others = self.cache.layers, other.cache.layers
        return type(self)(
            self.model,
            torch.cat([self.logits, other.logits]),
            torch.cat([self.lengths, other.lengths]),
            _cache(
                [
                    (_ending_together(a.keys, b.keys), _ending_together(a.values, b.values))
                    for a, b in zip(mine, others, strict=True)
                ]
            ),
        )


def _cache(past: Sequence[tuple[Tensor, Tensor]] = (), coming: int = 0) -> Any:
    from ipt.backbones.kv_cache import growing_cache

    return growing_cache(past, coming)


def _align(cache: Any, lengths: Tensor) -> None:
    """Move the rows of a right-padded cache to its end. `lengths` [B]."""
    total = cache.get_seq_length()
    source = torch.arange(total, device=lengths.device) - (total - lengths)[:, None]
    index = source.clamp(min=0)[:, None, :, None]
    for layer in cache.layers:
        layer.keys = layer.keys.gather(2, index.expand_as(layer.keys))
        layer.values = layer.values.gather(2, index.expand_as(layer.values))


def _ending_together(*parts: Tensor) -> Tensor:
    """Keys or values of two batches as one, the shorter rows filled up with zeros before their beginning."""
    longest = max(part.shape[2] for part in parts)
    return torch.cat([pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts])
