"""Encoder-decoder backbones (BART, T5): soft prompt and input in the encoder, target in the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ipt.backbones.batching import right_padded, to_device
from ipt.backbones.interface import BackboneIdentity, Family, TokenIds
from ipt.backbones.text_backbone import Decoding, PromptedTextBackbone, row_of_tokens, select_cache_rows
from ipt.errors import BackboneError

# T5's training length: its relative positions set no limit, and some of its tokenizers state none.
DEFAULT_POSITIONS = 512


class Seq2SeqBackbone(PromptedTextBackbone):
    """A frozen BART or T5.

    The prompt is put before the embedded input, so BART adds its position embeddings to the prompt as well. The decoder
    starts with the model's start token and, if the tokenizer opens every text with one (BART), the begin-of-sequence
    token. Neither is part of a target, so neither counts in a likelihood.
    """

    family: ClassVar[Family] = "seq2seq"

    def __init__(self, model: torch.nn.Module, tokenizer: Any, identity: BackboneIdentity) -> None:
        config: Any = model.config
        positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
        # transformers writes a huge number for a tokenizer without a limit.
        super().__init__(
            model,
            tokenizer,
            identity,
            max_positions=int(positions) if positions < 1_000_000 else DEFAULT_POSITIONS,
        )
        if config.decoder_start_token_id is None:
            raise BackboneError(f"{identity.id}: config.json names no decoder_start_token_id", param="backbone")
        opening = tokenizer("a")["input_ids"][0]
        self.start_tokens = [config.decoder_start_token_id, *([opening] if opening == tokenizer.bos_token_id else [])]

    @property
    def layer_count(self) -> int:
        """Number of layers of the encoder and of the decoder together."""
        config: Any = self.model.config
        return int(config.num_hidden_layers) + int(getattr(config, "decoder_layers", None) or config.num_decoder_layers)

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Return the token ids of each text, special tokens included; a long text is cut before its last token."""
        if not texts:
            return []
        longest = min(max_tokens or self.max_positions, self.max_positions)
        ids: list[TokenIds] = self.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        return ids

    def tokenize_targets(self, texts: Sequence[str]) -> list[TokenIds]:
        if not texts:
            return []
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[*row[: self.max_target_tokens - 1], self.tokenizer.eos_token_id] for row in rows]

    def _shorten(self, row: TokenIds, room: int) -> TokenIds:
        return [*row[: room - 1], row[-1]]

    def _room(self, prompt_length: int, target_length: int) -> int:  # noqa: ARG002 - the decoder has its own positions
        return self.max_positions - prompt_length

    def _encode(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the encoder's states [B, P + T, H] and, if there is padding, their mask [B, P + T]."""
        model: Any = self.model
        ids, lengths = right_padded(inputs)
        embeds = self.input_embeddings(to_device(ids, self.device))
        prompt_length = 0
        if prompts is not None:
            prompt_length = prompts.shape[1]
            embeds = torch.cat([prompts, embeds], dim=1)
        mask = None
        if int(lengths.min()) < ids.shape[1]:
            positions = torch.arange(embeds.shape[1])
            mask = to_device((positions < (prompt_length + lengths)[:, None]).long(), self.device)
        return model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state, mask

    def _start_tokens_of(self, rows: int) -> Tensor:
        return to_device(torch.tensor([self.start_tokens]), self.device).expand(rows, -1)

    def _target_logits(self, inputs: Sequence[TokenIds], targets: Sequence[TokenIds], prompts: Tensor | None) -> Tensor:
        states, mask = self._encode(inputs, prompts)
        padded, lengths = right_padded(targets)
        decoder_ids = torch.cat([self._start_tokens_of(len(inputs)), to_device(padded[:, :-1], self.device)], dim=1)
        # Targets are right-padded, so causal attention in the decoder cannot see the padding.
        output = self.model(
            encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False
        )
        positions = torch.cat([torch.arange(length) for length in lengths.tolist()]) + len(self.start_tokens) - 1
        logits: Tensor = output.logits[
            to_device(row_of_tokens(targets), self.device), to_device(positions, self.device)
        ]
        return logits

    def prefill_prompts(self, prompts: Tensor) -> Tensor:
        """Return the prompts themselves, [J, P, H]: the states of a prompt in the encoder depend on its input."""
        return prompts.to(self.dtype)

    def prefill_after_prompts(self, inputs: Sequence[TokenIds], prefilled: Tensor) -> Decoding:
        return self.prefill(inputs, prefilled)

    def prefill(self, inputs: Sequence[TokenIds], prompts: Tensor | None) -> Decoding:
        # Imported here: transformers' caches take seconds to import.
        from transformers import DynamicCache, EncoderDecoderCache

        from ipt.backbones.kv_cache import growing_cache

        states, mask = self._encode(inputs, prompts)
        output = self.model(
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=self._start_tokens_of(len(inputs)),
            # Cross-attention keys and values do not grow, so a plain cache holds them.
            past_key_values=EncoderDecoderCache(growing_cache(), DynamicCache()),
            use_cache=True,
        )
        return _Seq2SeqDecoding(self.model, output.logits[:, -1], states, mask, output.past_key_values)


@dataclass
class _Seq2SeqDecoding:
    model: Any
    logits: Tensor
    states: Tensor
    mask: Tensor | None
    cache: Any

    def extend(self, tokens: Tensor) -> Tensor:
        output = self.model(
            encoder_outputs=(self.states,),
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        logits: Tensor = output.logits
        self.logits = logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> Self:
        from transformers import EncoderDecoderCache

        rows = rows.to(self.logits.device)
        return type(self)(
            self.model,
            self.logits[rows],
            self.states[rows],
            None if self.mask is None else self.mask[rows],
            # Copies the cross-attention keys and values instead of computing them again for each row.
            EncoderDecoderCache(
                select_cache_rows(self.cache.self_attention_cache, rows),
                select_cache_rows(self.cache.cross_attention_cache, rows),
            ),
        )

    def merge(self, other: Self) -> Self | None:  # noqa: ARG002 - BART counts its positions from the cache's length
        return None
