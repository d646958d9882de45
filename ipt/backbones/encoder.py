"""BERT-like sentence encoders: a text, with a soft prompt after its first special token, becomes one unit vector.

The prompt may stand elsewhere, too (`EncoderBackbone.placed`), which docs/ablations.md has measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import normalize

from ipt.backbones.batching import forward_in_buckets, launch_bound_positions, right_padded, to_device
from ipt.backbones.cuda_graphs import GraphedPasses
from ipt.backbones.interface import PLACEMENTS, Backbone, BackboneIdentity, EncoderPlacement, Family, TokenIds
from ipt.errors import BackboneError
from ipt.runtime.memory import positions_of_graphs

Pooling = Literal["mean", "cls"]
GRAPHED_MODEL_TYPES = ("bert", "distilbert", "roberta", "xlm-roberta")
"""Those whose pass asks nothing of the host, as a CUDA graph must not. (MPNet makes its relative positions there.)"""


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
        prompt_placement: EncoderPlacement = "after_first_token",
    ) -> None:
        if prompt_placement not in PLACEMENTS[self.family]:
            known = ", ".join(PLACEMENTS[self.family])
            raise BackboneError(f"prompts stand {known}, not {prompt_placement!r}", param="prompt_placement")
        config: Any = model.config
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.identity = identity
        self.pooling = pooling
        self.hidden_size = int(config.hidden_size)
        self.max_positions = _positions(config)
        self.max_tokens = min(self.max_positions, max_tokens or self.max_positions)
        self.prompt_placement: EncoderPlacement = prompt_placement
        self._graphs: GraphedPasses | None = None
        if self.device.type == "cuda" and config.model_type in GRAPHED_MODEL_TYPES and self._attends_by_sdpa:
            bound = launch_bound_positions(self.hidden_size)
            self._graphs = GraphedPasses(self.device, bound, positions_of_graphs(self))

    def placed(self, placement: EncoderPlacement) -> EncoderBackbone:
        """The same model with prompts that stand elsewhere."""
        return EncoderBackbone(
            self.model,
            self.tokenizer,
            self.identity,
            pooling=self.pooling,
            max_tokens=self.max_tokens,
            prompt_placement=placement,
        )

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

    def max_input_tokens(self, prompt_length: int) -> int:
        return min(self.max_tokens, self.max_positions - prompt_length)

    def tokenize_flagged(self, texts: Sequence[str], prompt_length: int) -> list[tuple[TokenIds, bool]]:
        # With one token more than may stay, what was cut can be told from what just fits.
        most, longest = self.max_input_tokens(prompt_length), self.max_tokens
        rows = self.tokenize(texts, longest + 1)
        return [([*row[: longest - 1], row[-1]] if len(row) > longest else row, len(row) > most) for row in rows]

    def embed(self, token_ids: Sequence[TokenIds], prompts: Tensor | None = None) -> Tensor:
        """Sentence embeddings of unit length: `[B, H]`, float32, differentiable with respect to `prompts` `[B, P, H]`.

        The prompt's positions are left out of the pooling: without one, this is the embedding of the stock model. A row
        for which prompt and text exceed `max_positions` loses the tail of its text, never its last special token.
        """
        return self._embed(token_ids, prompts, [prompts is not None] * len(token_ids))

    def embed_both(self, token_ids: Sequence[TokenIds], prompts: Tensor) -> tuple[Tensor, Tensor]:
        """What `embed` gives with the prompts and without them, `[B, H]` each; one row costs one forward pass."""
        rows = len(token_ids)
        # On a CPU there is enough of each kind to fill passes of its own, with less padding; a device wants few passes.
        if rows > 1 and self.device.type == "cpu":
            return self.embed(token_ids, prompts), self.embed(token_ids)
        both = self._embed([*token_ids, *token_ids], torch.cat([prompts, prompts]), [True] * rows + [False] * rows)
        return both[:rows], both[rows:]

    def _embed(self, token_ids: Sequence[TokenIds], prompts: Tensor | None, prompted: Sequence[bool]) -> Tensor:
        """`[B, H]`; `prompted` says which rows stand behind their prompt."""
        prompts = self._check_prompts(prompts, len(token_ids))
        prompt_length = 0 if prompts is None else prompts.shape[1]
        prompt_lengths = [prompt_length * behind for behind in prompted]
        rows = self._fit(token_ids, prompt_lengths)
        if not rows:
            return torch.zeros(0, self.hidden_size, device=self.device)
        return forward_in_buckets(
            [length + len(row) for length, row in zip(prompt_lengths, rows, strict=True)],
            prompts,
            self.device,
            self.hidden_size,
            lambda bucket, own: self._embed_bucket(
                [rows[row] for row in bucket], own, [prompted[row] for row in bucket]
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

    def _embed_bucket(self, rows: list[TokenIds], prompts: Tensor | None, prompted: list[bool]) -> Tensor:
        """`[B, H]` of rows that are forwarded as one padded batch: on a GPU as a CUDA graph where that pays."""
        if prompts is not None and (prompts.shape[1] == 0 or not any(prompted)):
            prompts = None
        graph, height, width = None, len(rows), max(map(len, rows))
        if self._graphs is not None:
            graph, height, width = self._graphs.prepared(self._embed_packed, height, width, prompts)
        filled = [[len(row), behind, *row] for row, behind in zip(rows, prompted, strict=True)]
        packed, _ = right_padded([*filled, *[[1, 0, 0]] * (height - len(rows))], least_width=2 + width)
        if graph is not None:
            return graph(packed.pin_memory(), prompts, len(rows))
        return self._embed_packed(to_device(packed, self.device), prompts)

    def _embed_packed(self, packed: Tensor, prompts: Tensor | None) -> Tensor:
        """`[B, H]` of rows `[B, 2 + T]`: number of tokens, whether the prompt counts, and the padded tokens.

        On a device nothing in here asks the host for anything, so it can be captured. A CPU does no more than it must.
        """
        lengths, behind, ids = packed[:, :1], packed[:, 1:2].bool(), packed[:, 2:]
        may_look = self._may_look(packed)
        embeds = self.model.get_input_embeddings()(ids)  # type: ignore[operator]
        starts, prompt_length, longest = self._prompt_starts(lengths), 0, self.max_positions
        if prompts is not None:
            prompt_length = prompts.shape[1]
            with_prompts = self._with_prompts(embeds, prompts, starts)
            if may_look and bool(behind.all()):
                embeds = with_prompts
            else:
                embeds = torch.where(behind[:, :, None], with_prompts, F.pad(embeds, (0, 0, 0, prompt_length)))
            lengths = lengths + prompt_length * behind
        if may_look:
            longest = int(lengths.max())
        embeds = embeds[:, :longest]  # beyond there is padding alone
        positions = torch.arange(embeds.shape[1], device=packed.device)
        present = positions < lengths
        mask = None if may_look and bool(present.all()) else self._mask(present)
        hidden: Tensor = self.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        of_prompt = (positions >= starts) & (positions < starts + prompt_length) & behind
        return normalize(self._pool(hidden, present & ~of_prompt), dim=-1)

    def _prompt_starts(self, lengths: Tensor) -> Tensor | int:
        """[B, 1], or one for all: the position of the prompt's first vector, from the numbers of tokens [B, 1]."""
        if self.prompt_placement == "after_last_token":
            return lengths
        return 1 if self.prompt_placement == "after_first_token" else 0

    @staticmethod
    def _with_prompts(embeds: Tensor, prompts: Tensor, start: Tensor | int) -> Tensor:
        """[B, P + T, H]: embedded rows [B, T, H], and in each its prompt [B, P, H] from position `start` on."""
        if not isinstance(start, int):  # behind the text, where only padding follows
            tokens, length = embeds.shape[1], prompts.shape[1]
            places = torch.arange(tokens + length, device=embeds.device)
            own = places - start + tokens * (places < start + length)
            taken = torch.where(places < start, places, own)
            return torch.cat([embeds, prompts], dim=1).gather(1, taken[:, :, None].expand(-1, -1, embeds.shape[2]))
        return torch.cat([embeds[:, :start], prompts, embeds[:, start:]], dim=1)

    @staticmethod
    def _may_look(tensor: Tensor) -> bool:
        """Whether what is in a tensor can be looked at without waiting for it."""
        return tensor.device.type == "cpu"

    @property
    def _attends_by_sdpa(self) -> bool:
        config: Any = self.model.config
        return bool(config._attn_implementation == "sdpa")  # noqa: SLF001 - no public name says it

    def _mask(self, present: Tensor) -> Tensor:
        """What the model attends to, from the positions [B, T] that are no padding."""
        if not self._attends_by_sdpa:
            return present.long()
        # Made here, because transformers would ask the device whether there is padding at all, and wait for it.
        return present[:, None, None].expand(-1, -1, present.shape[1], -1)

    def _pool(self, hidden: Tensor, text: Tensor) -> Tensor:
        """`hidden` [B, T, H] to [B, H], over the positions [B, T] that are `text`."""
        if self.pooling == "cls":
            if self.prompt_placement != "before_first_token":
                return hidden[:, 0].float()
            first = text.long().argmax(dim=1)
            return hidden[torch.arange(len(hidden), device=hidden.device), first].float()
        weights = text / text.sum(dim=1, keepdim=True)
        return (weights[:, None] @ hidden.float())[:, 0]


def _positions(config: Any) -> int:
    """Positions that the model has embeddings for; RoBERTa-like models spend the first ones on padding."""
    positions = int(config.max_position_embeddings)
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(config.pad_token_id) + 1
    return positions
