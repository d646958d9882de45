"""Decoder-only backbones (GPT-2, Llama, Qwen): soft prompt, then input, then target, in one sequence.

`CausalBackbone.placed` chooses what stands around them (nothing, or a user's turn of the chat template) and whether the
prompt is read in the input or as keys and values at every layer (prefix tuning, Li and Liang 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from ipt.backbones.batching import right_padded, to_device
from ipt.backbones.input_frame import PLAIN_FRAME, frame_of
from ipt.backbones.interface import BackboneIdentity, Family, TokenIds, known_placement
from ipt.backbones.text_backbone import Decoding, PromptedTextBackbone, row_of_tokens, select_cache_rows


class CausalBackbone(PromptedTextBackbone):
    """A frozen decoder-only language model.

    A complete row (prompt, input, target) starts at position 0. Its padding follows it, where causal attention cannot
    see it, so it needs no mask. Rows that are being decoded are aligned at their ends, and a mask hides the padding
    before the shorter ones. The tokens before the prompt are the same in every row, so they are read once.
    """

    family: ClassVar[Family] = "causal"
    shares_prompts: ClassVar[bool] = True

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        identity: BackboneIdentity,
        *,
        prompt_placement: str = "before_input",
    ) -> None:
        self.prompt_placement = known_placement(self.family, prompt_placement)
        config: Any = model.config
        positions = int(config.max_position_embeddings)
        if "sliding_attention" in (getattr(config, "layer_types", None) or []):
            # Within the window every layer attends to everything, so that the cache keeps all positions.
            positions = min(positions, int(config.sliding_window))
        self._frame = frame_of(prompt_placement, tokenizer, identity.id)
        self.template = self._frame.template
        self.min_input_tokens = 1 + len(self._frame.after)
        super().__init__(model, tokenizer, identity, max_positions=positions - len(self._frame.before))
        self._placed: dict[str, CausalBackbone] = {}
        self._read_before: list[tuple[Tensor, Tensor]] | None = None

    def placed(self, placement: str) -> CausalBackbone:
        if placement == self.prompt_placement:
            return self
        if placement not in self._placed:
            # Kept, because each has the keys and values of its frame.
            self._placed[placement] = CausalBackbone(
                self.model, self.tokenizer, self.identity, prompt_placement=placement
            )
        return self._placed[placement]

    @property
    def fit_placement(self) -> str:
        return "every_layer"

    def input_positions(self, prompt_length: int) -> int:
        return self.prompt_words(prompt_length)

    @property
    def _key_size(self) -> int:
        config: Any = self.model.config
        size = getattr(config, "head_dim", None) or self.hidden_size // config.num_attention_heads
        return int(size) * self._key_heads

    @property
    def _key_heads(self) -> int:
        """Number of heads of keys and values, which several heads of queries may share."""
        config: Any = self.model.config
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)

    @torch.no_grad()
    def prompts_of_tokens(self, ids: Tensor) -> Tensor:
        """Return prompts [N, P, H] that the model reads like the tokens `ids` [N, T].

        These are the tokens' embeddings (P = T) or, in layers, their keys and values at each layer.
        """
        if not self.prompted_layers:
            return super().prompts_of_tokens(ids)
        read = self._read_prompts(self.input_embeddings(ids.to(self.device)))[..., -ids.shape[1] :, :]
        flat = read.transpose(2, 3).flatten(1)
        rows = self.prompt_rows(ids.shape[1])
        return pad(flat, (0, rows * self.hidden_size - flat.shape[1])).view(len(ids), rows, -1)

    @property
    def min_text_positions(self) -> int:
        return super().min_text_positions + len(self._frame.after)

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Return the token ids of each text, special tokens included; a long text is cut at its beginning."""
        if not texts:
            return []
        longest = min(max_tokens or self.max_positions, self.max_positions)
        frame = self._frame
        if frame is not PLAIN_FRAME:
            framed = [frame.separator + text for text in texts]
            ids = self.tokenizer(framed, truncation=False, verbose=False, add_special_tokens=False)["input_ids"]
            return [self._shorten([*row, *frame.after], longest) for row in ids]
        ids = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        # The model needs a token to continue from, even for an empty text.
        empty = [self.tokenizer.eos_token_id if start is None else start]
        return [self._shorten(row, longest) if row else empty for row in ids]

    def tokenize_targets(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the token ids of each text, end-of-sequence included.

        A text reads as after a space, except in a chat, where an answer starts a turn.
        """
        if not texts:
            return []
        if self._frame is not PLAIN_FRAME:
            rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
            return [self._ended(row) for row in rows]
        # Tokenizers mark a leading space in different ways: tokenize after a colon, then drop the colon.
        colon = self.tokenizer(":", add_special_tokens=False)["input_ids"]
        spaced = self.tokenizer([f": {text}" for text in texts], add_special_tokens=False, verbose=False)["input_ids"]
        plain = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        rows = [
            after_colon[len(colon) :] if after_colon[: len(colon)] == colon else row
            for after_colon, row in zip(spaced, plain, strict=True)
        ]
        return [self._ended(row) for row in rows]

    def _ended(self, target: TokenIds) -> TokenIds:
        return [*target[: self.max_target_tokens - 1], self.tokenizer.eos_token_id]

    def _shorten(self, row: TokenIds, room: int) -> TokenIds:
        if len(row) <= room:
            return row
        if after := self._frame.after:
            return [*row[len(row) - room : len(row) - len(after)], *after]
        if row[0] == self.tokenizer.bos_token_id and room > 1:
            return [row[0], *row[len(row) - room + 1 :]]
        return row[len(row) - room :]

    def _room(self, prompt_length: int, target_length: int) -> int:
        return self.max_positions - self.input_positions(prompt_length) - target_length

    def _hidden_states(self, ids: Tensor, prompts: Tensor | None, cache: Any = None) -> Tensor:
        """Return the last hidden states [B, P + T, H] over prompts and right-padded ids [B, T].

        Keys and values are added to `cache` if there is one, which starts with those before the prompts.
        """
        model: Any = self.model
        embeds = self.input_embeddings(to_device(ids, self.device))
        if prompts is not None:
            embeds = torch.cat([prompts, embeds], dim=1)
        if cache is None and self._frame.before:
            cache = _new_cache(self._before(len(ids)))
        output = model.base_model(inputs_embeds=embeds, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = output.last_hidden_state
        return states

    def _target_logits(self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prompts: Tensor | None) -> Tensor:
        if prompts is not None and self.prompted_layers:
            return self._target_logits_after(inputs, targets, self.prefill_prompts(prompts))
        states = self._hidden_states(_with_targets(inputs, targets), prompts)
        return self._logits_of_targets(states, inputs, targets, 0 if prompts is None else prompts.shape[1])

    def _target_logits_after(
        self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prefilled: Tensor | None
    ) -> Tensor:
        assert prefilled is not None
        states = self._hidden_states(_with_targets(inputs, targets), None, _new_cache(_layers(prefilled)))
        return self._logits_of_targets(states, inputs, targets, 0)

    def _logits_of_targets(
        self, states: Tensor, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prompt_length: int
    ) -> Tensor:
        """Return the packed logits [N, V] of the targets from the states [B, T, H] of whole rows."""
        # A target's first token is predicted at the input's last. Only these positions go through the large head.
        starts = [prompt_length + len(row) - 1 for row in inputs]
        positions = torch.cat(
            [torch.arange(start, start + len(target)) for start, target in zip(starts, targets, strict=True)]
        )
        rows = row_of_tokens(targets)
        return self._head(states[to_device(rows, self.device), to_device(positions, self.device)])

    def prefill(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> Decoding:
        if prompts is not None and self.prompted_layers:
            return self.prefill_after_prompts(inputs, self.prefill_prompts(prompts))
        return self._prefill(inputs, prompts, self._before(len(inputs)))

    def prefill_prompts(self, prompts: Tensor) -> Tensor:
        """Return the keys and values of each prompt and of the tokens before it: [J, 2 x layers, heads, T, size]."""
        if not self.prompted_layers:
            return self._read_prompts(prompts)
        prefixes = self._keys_and_values(prompts)
        if not (before := self._before(len(prompts))):
            return prefixes
        return torch.cat([_stacked(before), prefixes], dim=3)

    def _keys_and_values(self, prompts: Tensor) -> Tensor:
        """Return what prompts [J, P, H] in the layers hold: [J, 2 x layers, heads, positions, size of a head]."""
        positions, parts = self.prompt_words(prompts.shape[1]), 2 * self.layer_count
        numbers = prompts.to(self.dtype).flatten(1)[:, : parts * positions * self._key_size]
        return numbers.view(len(prompts), parts, positions, self._key_heads, -1).transpose(2, 3)

    def _read_prompts(self, embeds: Tensor) -> Tensor:
        """Return the keys and values [J, 2 x layers, heads, T, size] after reading embeddings [J, P, H] as input."""
        cache = _new_cache(self._before(len(embeds)))
        model: Any = self.model
        model.base_model(inputs_embeds=embeds.to(self.dtype), past_key_values=cache, use_cache=True)
        return _stacked([(layer.keys, layer.values) for layer in cache.layers])

    def prefill_after_prompts(self, inputs: Sequence[TokenIds], prefilled: Tensor) -> Decoding:
        return self._prefill(inputs, None, _layers(prefilled))

    def _before(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of each layer [B, heads, T, size of a head] of the tokens before the prompts."""
        if not self._frame.before:
            return []
        if self._read_before is None:
            cache = _new_cache()
            model: Any = self.model
            ids = torch.tensor([self._frame.before], device=self.device)
            # Not as inference tensors, with which no gradient could be computed later.
            with torch.inference_mode(mode=False), torch.no_grad():
                model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            self._read_before = [(layer.keys, layer.values) for layer in cache.layers]
        return [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self._read_before]

    def _prefill(
        self, inputs: Sequence[TokenIds], prompts: Tensor | None, past: Sequence[tuple[Tensor, Tensor]]
    ) -> _CausalDecoding:
        """Read the inputs after prompts, or after the keys and values of prompts in each layer."""
        ids, lengths = right_padded(inputs)
        cache = _new_cache(past, expected_positions=ids.shape[1])
        states = self._hidden_states(ids, prompts, cache)
        ends = to_device(states.shape[1] - ids.shape[1] + lengths - 1, self.device)
        last = states[torch.arange(len(inputs), device=self.device), ends]
        lengths = lengths + cache.get_seq_length() - ids.shape[1]
        if int(lengths.min()) < cache.get_seq_length():
            _align_ends(cache, to_device(lengths, self.device))
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
    """Positions that each row has filled, [B], kept on the CPU so that reading them never waits for the device."""
    cache: Any

    def extend(self, tokens: Tensor) -> Tensor:
        new = tokens.shape[1]
        total = self.cache.get_seq_length() + new
        positions = self.lengths[:, None] + torch.arange(new)
        self.lengths = self.lengths + new
        mask = None
        if int(self.lengths.min()) < total:
            mask = (torch.arange(total) >= total - self.lengths[:, None]).long().to(tokens.device)
        output = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions.to(tokens.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits
        self.logits = logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> Self:
        lengths, rows = self.lengths[rows], rows.to(self.logits.device)
        cache = select_cache_rows(self.cache, rows)
        surplus = self.cache.get_seq_length() - int(lengths.max())
        if surplus:  # the longest row was not selected
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, surplus:], layer.values[:, :, surplus:]
        return type(self)(self.model, self.logits[rows], lengths, cache)

    def merge(self, other: Self) -> Self | None:
        layers = [
            (_cat_aligned_at_end(a.keys, b.keys), _cat_aligned_at_end(a.values, b.values))
            for a, b in zip(self.cache.layers, other.cache.layers, strict=True)
        ]
        return type(self)(
            self.model,
            torch.cat([self.logits, other.logits]),
            torch.cat([self.lengths, other.lengths]),
            _new_cache(layers),
        )


def _with_targets(inputs: Sequence[TokenIds], targets: Sequence[TokenIds]) -> Tensor:
    """Return each row and its target, without the last token that nothing follows, right-padded: [B, T]."""
    ids, _ = right_padded([[*row, *target[:-1]] for row, target in zip(inputs, targets, strict=True)])
    return ids


def _stacked(layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the keys and values of layers as one tensor [B, 2 x layers, heads, T, size], the inverse of `_layers`."""
    return torch.stack([part for layer in layers for part in layer], dim=1)


def _layers(prefilled: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of each layer from what `prefill_prompts` returns."""
    parts = prefilled.unbind(dim=1)
    return list(zip(parts[::2], parts[1::2], strict=True))


def _new_cache(past: Sequence[tuple[Tensor, Tensor]] = (), expected_positions: int = 0) -> Any:
    # Imported here: transformers' caches take seconds to import.
    from ipt.backbones.kv_cache import growing_cache

    return growing_cache(past, expected_positions)


def _align_ends(cache: Any, lengths: Tensor) -> None:
    """Shift the rows of a right-padded cache so that they end together. `lengths`: [B]."""
    total = cache.get_seq_length()
    source = torch.arange(total, device=lengths.device) - (total - lengths)[:, None]
    index = source.clamp(min=0)[:, None, :, None]
    for layer in cache.layers:
        layer.keys = layer.keys.gather(2, index.expand_as(layer.keys))
        layer.values = layer.values.gather(2, index.expand_as(layer.values))


def _cat_aligned_at_end(*parts: Tensor) -> Tensor:
    """Concatenate keys or values of two batches, with zeros before the shorter rows."""
    longest = max(part.shape[2] for part in parts)
    return torch.cat([pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts])
