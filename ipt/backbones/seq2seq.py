"""Encoder-decoder backbones (BART, T5): the soft prompt stands before the encoder's input, the decoder writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ipt.backbones.batching import right_padded, to_device
from ipt.backbones.interface import BackboneIdentity, Family, TokenIds
from ipt.backbones.text_backbone import Decoding, PromptedTextBackbone, select_cache_rows
from ipt.errors import BackboneError

# What T5 was trained on; its relative positions set no limit, and some of its tokenizers name none.
POSITIONS_WHERE_NONE_ARE_NAMED = 512


class Seq2SeqBackbone(PromptedTextBackbone):
    """A frozen BART or T5.

    The prompt is put before the embedded input, so that BART adds its position embeddings to the prompt as well.
    The decoder starts with the model's start token and, where the tokenizer opens every text with one (BART), the
    begin-of-sequence token: neither is part of a target, so neither counts in a likelihood.
    """

    family: ClassVar[Family] = "seq2seq"

    def __init__(self, model: torch.nn.Module, tokenizer: Any, identity: BackboneIdentity) -> None:
        config: Any = model.config
        positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
        # transformers writes a huge number where a tokenizer knows no limit.
        super().__init__(
            model,
            tokenizer,
            identity,
            max_positions=int(positions) if positions < 1_000_000 else POSITIONS_WHERE_NONE_ARE_NAMED,
        )
        if config.decoder_start_token_id is None:
            raise BackboneError(f"{identity.id}: config.json names no decoder_start_token_id", param="backbone")
        opening = tokenizer("a")["input_ids"][0]
        self.start_tokens = [config.decoder_start_token_id, *([opening] if opening == tokenizer.bos_token_id else [])]

    @property
    def layer_count(self) -> int:
        """Layers of the encoder and of the decoder together."""
        config: Any = self.model.config
        return int(config.num_hidden_layers) + int(getattr(config, "decoder_layers", None) or config.num_decoder_layers)

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Token ids of each text, special tokens included; a long text loses its tail, never its last token."""
        if not texts:
            return []
        longest = min(max_tokens or self.max_positions, self.max_positions)
        ids: list[TokenIds] = self.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        return ids

    def tokenize_targets(self, texts: Sequence[str]) -> list[TokenIds]:
        if not texts:
            return []
        bare = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[*row[: self.max_target_tokens - 1], self.tokenizer.eos_token_id] for row in bare]

    def _shorten(self, row: TokenIds, room: int) -> TokenIds:
        return [*row[: room - 1], row[-1]]

    def _room(self, prompt_length: int, target_length: int) -> int:  # noqa: ARG002 - targets have positions of their own
        return self.max_positions - prompt_length

    def _encode(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Encoder states [B, P + T, H], and their mask [B, P + T] where there is padding."""
        model: Any = self.model
        ids, lengths = right_padded(inputs)
        embeds = model.get_input_embeddings()(to_device(ids, self.device))
        prompt_length = 0
        if prompts is not None:
            prompt_length = prompts.shape[1]
            embeds = torch.cat([prompts, embeds], dim=1)
        mask = None
        if int(lengths.min()) < ids.shape[1]:
            positions = torch.arange(embeds.shape[1])
            mask = to_device((positions < (prompt_length + lengths)[:, None]).long(), self.device)
        return model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state, mask

    def _started(self, rows: int) -> Tensor:
        return to_device(torch.tensor([self.start_tokens]), self.device).expand(rows, -1)

    def _target_logits(self, inputs: Sequence[TokenIds], targets: Tensor, prompts: Tensor | None) -> Tensor:
        states, mask = self._encode(inputs, prompts)
        read = torch.cat([self._started(len(inputs)), to_device(targets[:, :-1], self.device)], dim=1)
        # Targets are padded at the end, where a causal decoder's earlier positions cannot see it.
        answer = self.model(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=read, use_cache=False)
        logits: Tensor = answer.logits
        return logits[:, len(self.start_tokens) - 1 :]

    def prefill_prompts(self, prompts: Tensor) -> Tensor:
        """The prompts themselves, [J, P, H]: the encoder reads a prompt and its input as one."""
        return prompts.to(self.dtype)

    def prefill_after_prompts(self, inputs: Sequence[TokenIds], read: Tensor) -> Decoding:
        return self.prefill(inputs, read)

    def prefill(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> Decoding:
        from transformers import DynamicCache, EncoderDecoderCache

        from ipt.backbones.kv_cache import growing_cache

        states, mask = self._encode(inputs, prompts)
        answer = self.model(
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=self._started(len(inputs)),
            # What the decoder reads of the encoder does not grow.
            past_key_values=EncoderDecoderCache(growing_cache(), DynamicCache()),
            use_cache=True,
        )
        return _Seq2SeqDecoding(self.model, answer.logits[:, -1], states, mask, answer.past_key_values)


@dataclass
class _Seq2SeqDecoding:
    model: Any
    logits: Tensor
    states: Tensor
    mask: Tensor | None
    cache: Any

    def extend(self, tokens: Tensor) -> Tensor:
        answer = self.model(
            encoder_outputs=(self.states,),
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = answer.past_key_values
        logits: Tensor = answer.logits
        self.logits = logits[:, -1]
        return logits

    def select(self, wanted: Tensor) -> Self:
        from transformers import EncoderDecoderCache

        wanted = wanted.to(self.logits.device)
        return type(self)(
            self.model,
            self.logits[wanted],
            self.states[wanted],
            None if self.mask is None else self.mask[wanted],
            # The encoder's keys and values are copied, not computed again for each row.
            EncoderDecoderCache(
                select_cache_rows(self.cache.self_attention_cache, wanted),
                select_cache_rows(self.cache.cross_attention_cache, wanted),
            ),
        )

    def merge(self, other: Self) -> Self | None:  # noqa: ARG002 - BART counts its positions from the cache's length
        return None
