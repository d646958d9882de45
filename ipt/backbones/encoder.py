"""BERT-like sentence encoders: a text, with a soft prompt after its first special token, becomes one unit vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import normalize

from ipt.backbones.batching import forward_in_buckets, right_padded, sent
from ipt.backbones.protocol import Backbone, BackboneIdentity, Family, TokenIds
from ipt.backbones.soft_prompts import checked_prompts
from ipt.errors import BackboneError

Pooling = Literal["mean", "cls"]


class EncoderBackbone(Backbone):
    """A frozen sentence encoder with its tokenizer.

    `max_tokens` is the length, special tokens included, that `tokenize` truncates to. The constructor freezes
    `model` and puts it in eval mode.
    """

    family: ClassVar[Family] = "encoder"

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        identity: BackboneIdentity,
        *,
        pooling: Pooling = "mean",
        max_tokens: int | None = None,
    ) -> None:
        config: Any = model.config
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.identity = identity
        self.pooling = pooling
        self.hidden_size = int(config.hidden_size)
        self.max_positions = _positions(config)
        self.max_tokens = min(self.max_positions, max_tokens or self.max_positions)

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Token ids of each text, special tokens included, truncated to `max_tokens` (default: `self.max_tokens`)."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=min(max_tokens or self.max_tokens, self.max_positions),
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[TokenIds] = encoded["input_ids"]
        return ids

    def most_tokens(self, prompt_length: int) -> int:
        return min(self.max_tokens, self.max_positions - prompt_length)

    def read(self, texts: Sequence[str], prompt_length: int) -> list[tuple[TokenIds, bool]]:
        # With one token more than may stay, what was cut can be told from what just fits.
        most, longest = self.most_tokens(prompt_length), self.max_tokens
        rows = self.tokenize(texts, longest + 1)
        return [([*row[: longest - 1], row[-1]] if len(row) > longest else row, len(row) > most) for row in rows]

    def embed(self, token_ids: Sequence[TokenIds], prompts: Tensor | None = None) -> Tensor:
        """Sentence embeddings of unit length: `[B, H]`, float32, differentiable with respect to `prompts` `[B, P, H]`.

        The prompt stands after the row's first special token, and its positions are left out of the pooling: without
        one, this is the embedding of the stock model. A row for which prompt and text exceed `max_positions` loses
        the tail of its text, never its last special token.
        """
        return self._embed(token_ids, prompts, [prompts is not None] * len(token_ids))

    def embed_both(self, token_ids: Sequence[TokenIds], prompts: Tensor) -> tuple[Tensor, Tensor]:
        """What `embed` gives with the prompts and without them, `[B, H]` each; one row costs one forward pass."""
        rows = len(token_ids)
        if rows > 1:  # there is enough of each kind to fill passes of its own, with less padding
            return self.embed(token_ids, prompts), self.embed(token_ids)
        both = self._embed([*token_ids, *token_ids], torch.cat([prompts, prompts]), [True] * rows + [False] * rows)
        return both[:rows], both[rows:]

    def _embed(self, token_ids: Sequence[TokenIds], prompts: Tensor | None, prompted: Sequence[bool]) -> Tensor:
        """`[B, H]`; `prompted` says which rows stand behind their prompt."""
        words = self.model.get_input_embeddings()  # type: ignore[operator]
        table: Tensor = words.weight
        prompts = checked_prompts(prompts, len(token_ids), self.hidden_size, table)
        prompt_length = 0 if prompts is None else prompts.shape[1]
        prompt_lengths = [prompt_length * behind for behind in prompted]
        rows = self._fit(token_ids, prompt_lengths)
        if not rows:
            return torch.zeros(0, self.hidden_size, device=table.device)
        return forward_in_buckets(
            [length + len(row) for length, row in zip(prompt_lengths, rows, strict=True)],
            prompts,
            table.device,
            lambda bucket, own: self._embed_bucket(
                [rows[row] for row in bucket], own, [prompted[row] for row in bucket], words
            ),
        )

    def _fit(self, token_ids: Sequence[TokenIds], prompt_lengths: Sequence[int]) -> list[TokenIds]:
        rows = []
        for position, (row, prompt_length) in enumerate(zip(token_ids, prompt_lengths, strict=True)):
            room = self.max_positions - prompt_length
            if room < 2:
                raise BackboneError(
                    f"a soft prompt of {prompt_length} positions leaves no room for text: the model attends to "
                    f"{self.max_positions} positions",
                    param="prompts",
                )
            if not row:
                raise BackboneError(f"row {position} has no tokens", param=f"token_ids[{position}]")
            rows.append(row if len(row) <= room else [*row[: room - 1], row[-1]])
        return rows

    def _embed_bucket(
        self, rows: list[TokenIds], prompts: Tensor | None, prompted: list[bool], words: torch.nn.Module
    ) -> Tensor:
        """`[B, H]` of rows that are forwarded as one padded batch."""
        device = self.device
        ids, text_lengths = right_padded(rows)
        embeds = words(sent(ids, device))
        behind = torch.tensor(prompted)
        prompt_length = 0
        if prompts is not None and any(prompted):
            prompt_length = prompts.shape[1]
            with_prompts = torch.cat([embeds[:, :1], prompts, embeds[:, 1:]], dim=1)
            if all(prompted):
                embeds = with_prompts
            else:
                without = F.pad(embeds, (0, 0, 0, prompt_length))
                embeds = torch.where(sent(behind, device)[:, None, None], with_prompts, without)
        lengths = text_lengths + prompt_length * behind
        longest = int(lengths.max())
        embeds = embeds[:, :longest]

        positions = torch.arange(longest)
        present = positions < lengths[:, None]
        hidden: Tensor = self.model(inputs_embeds=embeds, attention_mask=self._mask(present)).last_hidden_state
        of_prompt = (positions > 0) & (positions <= prompt_length) & behind[:, None]
        return normalize(self._pool(hidden, present & ~of_prompt), dim=-1)

    def _mask(self, present: Tensor) -> Tensor | None:
        """What the model attends to, from the positions [B, T] that are no padding."""
        if bool(present.all()):
            return None
        config: Any = self.model.config
        if config._attn_implementation != "sdpa":  # noqa: SLF001 - no public name says it
            return sent(present.long(), self.device)
        # Made here, because transformers would ask the device whether there is padding at all, and wait for it.
        return sent(present, self.device)[:, None, None].expand(-1, -1, present.shape[1], -1)

    def _pool(self, hidden: Tensor, text: Tensor) -> Tensor:
        """`hidden` [B, T, H] to [B, H], over the positions [B, T] that are `text`."""
        if self.pooling == "cls":
            return hidden[:, 0].float()
        weights = sent(text / text.sum(dim=1, keepdim=True), hidden.device)
        return (weights[:, None] @ hidden.float())[:, 0]


def _positions(config: Any) -> int:
    """Positions that the model has embeddings for; RoBERTa-like models spend the first ones on padding."""
    positions = int(config.max_position_embeddings)
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(config.pad_token_id) + 1
    return positions
