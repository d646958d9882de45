"""BERT-like sentence encoders: a text with a soft prompt becomes one embedding of unit length.

`EncoderBackbone.placed` chooses where the prompt is read: in the input, or as keys and values of layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from ipt.backbones.batching import forward_in_buckets, launch_bound_positions, right_padded, to_device
from ipt.backbones.cuda_graphs import GraphedPasses
from ipt.backbones.interface import Backbone, BackboneIdentity, Family, TokenIds, known_placement
from ipt.backbones.lower_layers import LowerLayers, layers_of
from ipt.backbones.prefix_attention import PREFIX_ATTENTION, enable_prefixes
from ipt.errors import BackboneError
from ipt.runtime.memory import positions_of_graphs

Pooling = Literal["mean", "cls"]
GRAPHED_MODEL_TYPES = ("bert", "distilbert", "roberta", "xlm-roberta")
"""Model types whose forward pass a CUDA graph can capture. MPNet's cannot: it makes relative positions on the CPU."""


class EncoderBackbone(Backbone):
    """A frozen sentence encoder with its tokenizer.

    The constructor freezes `model` and puts it in eval mode.

    Args:
        pooling: how token states become an embedding: their mean, or the state of the first token.
        max_tokens: length that `tokenize` cuts to, special tokens included; `max_positions` when None.
        prompt_placement: where in its input the model reads the prompt.
        shared_prompt: as in `with_shared_prompt`.
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
        prompt_placement: str = "after_first_token",
        shared_prompt: Tensor | None = None,
    ) -> None:
        self.prompt_placement = known_placement(self.family, prompt_placement)
        config: Any = model.config
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.identity = identity
        self.pooling = pooling
        self.hidden_size = int(config.hidden_size)
        self.max_positions = _positions(config)
        self.max_tokens = min(self.max_positions, max_tokens or self.max_positions)
        self._placed: dict[str, EncoderBackbone] = {}
        if self.prompted_layers:
            enable_prefixes(model)
        self.shared_prompt = shared_prompt
        self._shared_prefix: Tensor | None = None
        below = self.layer_count - self.prompted_layers
        if shared_prompt is not None:
            self._shared_prefix = shared_prompt.detach().to(self.input_embeddings.weight).unflatten(0, (below, 2, -1))
        self._lower_layers: LowerLayers | None = None
        self._prompted_lower_layers: LowerLayers | None = None
        if self.device.type == "cpu" and 0 < self.prompted_layers < self.layer_count:
            self._lower_layers = self._prompted_lower_layers = LowerLayers(model, below)
            if self._shared_prefix is not None:
                self._prompted_lower_layers = LowerLayers(model, below, self._shared_prefix)
        self._graphs: GraphedPasses | None = None
        if self.device.type == "cuda" and config.model_type in GRAPHED_MODEL_TYPES and self._uses_sdpa:
            bound = launch_bound_positions(self.hidden_size)
            in_input = not self.prompted_layers
            self._graphs = GraphedPasses(self.device, bound, positions_of_graphs(self), prompts_in_input=in_input)

    def placed(self, placement: str) -> EncoderBackbone:
        if placement == self.prompt_placement and self.shared_prompt is None:
            return self
        if placement not in self._placed:
            # Kept, because each has CUDA graphs of its own.
            self._placed[placement] = self._copy(placement)
        return self._placed[placement]

    def with_shared_prompt(self, prompt: Tensor) -> EncoderBackbone:
        below = self.layer_count - self.prompted_layers
        if not self.prompted_layers or not below:
            super().with_shared_prompt(prompt)
        if prompt.dim() != 2 or prompt.shape[1] != self.hidden_size or not len(prompt) or len(prompt) % (2 * below):
            raise BackboneError(
                f"a shared prompt has the keys and values of {below} layers, a multiple of {2 * below} rows of "
                f"{self.hidden_size} numbers; got {list(prompt.shape)}",
                param="shared_prompt",
            )
        if self.shared_prompt is not None and torch.equal(self.shared_prompt, prompt):
            return self
        key = hashlib.sha256(prompt.float().cpu().numpy().tobytes()).hexdigest()
        if key not in self._placed:
            self._placed[key] = self._copy(self.prompt_placement, prompt)
        return self._placed[key]

    def _copy(self, placement: str, shared_prompt: Tensor | None = None) -> EncoderBackbone:
        return EncoderBackbone(
            self.model,
            self.tokenizer,
            self.identity,
            pooling=self.pooling,
            max_tokens=self.max_tokens,
            prompt_placement=placement,
            shared_prompt=shared_prompt,
        )

    @property
    def fit_placement(self) -> str:
        return "every_layer"

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> list[TokenIds]:
        """Return token ids of each text, special tokens included, cut to `max_tokens` (default: `self.max_tokens`)."""
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
        return min(self.max_tokens, self.max_positions - self.input_positions(prompt_length))

    def tokenize_flagged(self, texts: Sequence[str], prompt_length: int) -> list[tuple[TokenIds, bool]]:
        # One extra token tells a text that was cut from a text that just fits.
        limit, longest = self.max_input_tokens(prompt_length), self.max_tokens
        rows = self.tokenize(texts, longest + 1)
        return [([*row[: longest - 1], row[-1]] if len(row) > longest else row, len(row) > limit) for row in rows]

    @torch.no_grad()
    def prompts_of_tokens(self, ids: Tensor) -> Tensor:
        """Return prompts [N, P, H] that the model reads like the tokens `ids` [N, T].

        These are the tokens' embeddings (P = T) or, in layers, their keys and values (P = 2 x prompted layers x T).
        """
        if not self.prompted_layers:
            return super().prompts_of_tokens(ids)
        layers: list[tuple[Tensor, Tensor]] = []
        model: Any = self.model
        model(input_ids=ids.to(self.device), captured=layers)
        prompted = layers[-self.prompted_layers :]
        return torch.stack([states for layer in prompted for states in layer], dim=1).flatten(1, 2)

    def embed(self, token_ids: Sequence[TokenIds], prompts: Tensor | None = None) -> Tensor:
        """Return sentence embeddings of unit length, [B, H], in float32.

        They are differentiable with respect to `prompts` [B, P, H]. Pooling leaves the prompt's positions out, so
        without a prompt this is the stock model's embedding. A text that does not fit beside its prompt in
        `max_positions` is cut before its last special token.
        """
        return self._embed(token_ids, prompts, [prompts is not None] * len(token_ids))

    def embed_both(self, token_ids: Sequence[TokenIds], prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `embed` returns with the prompts and without them, [B, H] each."""
        rows = len(token_ids)
        # Separate passes have less padding, which saves time on a CPU. A GPU is faster with fewer, larger passes.
        if rows > 1 and self.device.type == "cpu":
            return self.embed(token_ids, prompts), self.embed(token_ids)
        both = self._embed([*token_ids, *token_ids], torch.cat([prompts, prompts]), [True] * rows + [False] * rows)
        return both[:rows], both[rows:]

    def _embed(self, token_ids: Sequence[TokenIds], prompts: Tensor | None, prompted: Sequence[bool]) -> Tensor:
        """Return [B, H]; `prompted` tells which rows are read with their prompt."""
        prompts = self._check_prompts(prompts, len(token_ids))
        prompt_length = 0 if prompts is None else self.input_positions(prompts.shape[1])
        prompt_lengths = [prompt_length * with_prompt for with_prompt in prompted]
        rows = self._fit(token_ids, prompt_lengths)
        if not rows:
            return torch.zeros(0, self.hidden_size, device=self.device)
        lower = self._lower_states(rows, prompted if prompts is not None else [False] * len(rows))

        def embed_bucket(bucket: list[int], bucket_prompts: Tensor | None) -> Tensor:
            bucket_prompted = [prompted[row] for row in bucket]
            if lower is not None:
                return self._embed_upper([lower[row] for row in bucket], bucket_prompts, bucket_prompted)
            return self._embed_bucket([rows[row] for row in bucket], bucket_prompts, bucket_prompted)

        return forward_in_buckets(
            [length + len(row) for length, row in zip(prompt_lengths, rows, strict=True)],
            prompts,
            self.device,
            self.hidden_size,
            embed_bucket,
        )

    def _lower_states(self, rows: Sequence[TokenIds], prompted: Sequence[bool]) -> list[Tensor] | None:
        """Return the states [T, H] of each row below the prompted layers; None if the rows pass all layers at once."""
        if self._lower_layers is None or self._prompted_lower_layers is None:
            return None
        states: dict[int, Tensor] = {}
        for with_prompt, layers in ((True, self._prompted_lower_layers), (False, self._lower_layers)):
            numbers = [number for number, flag in enumerate(prompted) if flag == with_prompt]
            states |= zip(numbers, layers.states([rows[number] for number in numbers]), strict=True)
        return [states[number] for number in range(len(rows))]

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
        """Return [B, H] of rows that form one padded batch; on a GPU, replay a CUDA graph if that is faster."""
        if prompts is not None and (prompts.shape[1] == 0 or not any(prompted)):
            prompts = None
        graph, height, width = None, len(rows), max(map(len, rows))
        if self._graphs is not None:
            graph, height, width = self._graphs.prepare(self._embed_packed, height, width, prompts)
        packed_rows = [[len(row), with_prompt, *row] for row, with_prompt in zip(rows, prompted, strict=True)]
        packed, _ = right_padded([*packed_rows, *[[1, 0, 0]] * (height - len(rows))], min_width=2 + width)
        if graph is not None:
            return graph(packed.pin_memory(), prompts, len(rows))
        return self._embed_packed(to_device(packed, self.device), prompts)

    def _embed_upper(self, lower: list[Tensor], prompts: Tensor | None, prompted: list[bool]) -> Tensor:
        """Return [B, H] of rows whose states [T, H] below the prompted layers are `lower`."""
        hidden = pad_sequence(lower, batch_first=True)
        present = torch.arange(hidden.shape[1]) < torch.tensor([[len(states)] for states in lower])
        visible, attention_arguments = present, {}
        if prompts is not None and any(prompted):
            prefixes = prompts.unflatten(1, (self.prompted_layers, 2, -1))
            with_prompt = torch.tensor(prompted)[:, None].expand(-1, prefixes.shape[3])
            visible, attention_arguments = torch.cat([with_prompt, present], dim=1), {"prefixes": prefixes}
        mask = None if bool(visible.all()) else self._mask(visible, hidden.shape[1])
        for layer in layers_of(self.model)[-self.prompted_layers :]:
            hidden = layer(hidden, mask, **attention_arguments)
        return normalize(self._pool(hidden, present), dim=-1)

    def _embed_packed(self, packed: Tensor, prompts: Tensor | None) -> Tensor:
        """Return [B, H] of rows [B, 2 + T]: number of tokens, whether the prompt is read, and the padded tokens.

        On a GPU this code never waits for a value, so that a graph can capture it. On a CPU it inspects values to skip
        work.
        """
        lengths, with_prompt, ids = packed[:, :1], packed[:, 1:2].bool(), packed[:, 2:]
        inspect = self._can_inspect(packed)
        model: Any = self.model
        embeds = self.input_embeddings(ids)
        starts, prompt_length, longest = self._prompt_starts(lengths), 0, self.max_positions
        prefixes = None
        if prompts is not None and self.prompted_layers:
            prefixes = prompts.unflatten(1, (self.prompted_layers, 2, -1))
            if self._shared_prefix is not None:
                prefixes = torch.cat([self._shared_prefix.expand(len(prefixes), -1, -1, -1, -1), prefixes], dim=1)
        elif prompts is not None:
            prompt_length = prompts.shape[1]
            prompted = self._insert_prompts(embeds, prompts, starts)
            if inspect and bool(with_prompt.all()):
                embeds = prompted
            else:
                embeds = torch.where(with_prompt[:, :, None], prompted, F.pad(embeds, (0, 0, 0, prompt_length)))
            lengths = lengths + prompt_length * with_prompt
        if inspect:
            longest = int(lengths.max())
        embeds = embeds[:, :longest]  # only padding follows
        positions = torch.arange(embeds.shape[1], device=packed.device)
        present = positions < lengths
        visible, attention_arguments = present, {}
        if prefixes is not None:
            visible = torch.cat([with_prompt.expand(-1, prefixes.shape[3]), present], dim=1)
            attention_arguments = {"prefixes": prefixes}
        mask = None if inspect and bool(visible.all()) else self._mask(visible, len(positions))
        hidden: Tensor = model(inputs_embeds=embeds, attention_mask=mask, **attention_arguments).last_hidden_state
        is_prompt = (positions >= starts) & (positions < starts + prompt_length) & with_prompt
        return normalize(self._pool(hidden, present & ~is_prompt), dim=-1)

    def _prompt_starts(self, lengths: Tensor) -> Tensor | int:
        """Return the position of each prompt's first vector, [B, 1] or one for all rows, from `lengths` [B, 1]."""
        if self.prompt_placement == "after_last_token":
            return lengths
        return 1 if self.prompt_placement == "after_first_token" else 0

    @staticmethod
    def _insert_prompts(embeds: Tensor, prompts: Tensor, start: Tensor | int) -> Tensor:
        """Insert prompts [B, P, H] into embedded rows [B, T, H] at position `start`, to [B, P + T, H]."""
        if isinstance(start, int):
            return torch.cat([embeds[:, :start], prompts, embeds[:, start:]], dim=1)
        # After the last token, a different position in each row, where only padding follows.
        tokens, length = embeds.shape[1], prompts.shape[1]
        positions = torch.arange(tokens + length, device=embeds.device)
        shifted = positions - start + tokens * (positions < start + length)
        source = torch.where(positions < start, positions, shifted)
        return torch.cat([embeds, prompts], dim=1).gather(1, source[:, :, None].expand(-1, -1, embeds.shape[2]))

    @staticmethod
    def _can_inspect(tensor: Tensor) -> bool:
        """Return whether the values of a tensor can be read without waiting for a device."""
        return tensor.device.type == "cpu"

    @property
    def _uses_sdpa(self) -> bool:
        config: Any = self.model.config
        return config._attn_implementation in ("sdpa", PREFIX_ATTENTION)  # noqa: SLF001 - it has no public name

    def _mask(self, visible: Tensor, tokens: int) -> Tensor:
        """Return the attention mask of rows of `tokens` positions that attend to the `visible` positions [B, P + T]."""
        if not self._uses_sdpa:
            return visible.long()
        # From a 2D mask, transformers would read back from the device whether there is any padding.
        return visible[:, None, None].expand(-1, -1, tokens, -1)

    def _pool(self, hidden: Tensor, is_text: Tensor) -> Tensor:
        """Pool `hidden` [B, T, H] to [B, H] over the positions where `is_text` [B, T] is true."""
        if self.pooling == "cls":
            if self.prompt_placement != "before_first_token":
                return hidden[:, 0].float()
            first = is_text.long().argmax(dim=1)
            return hidden[torch.arange(len(hidden), device=hidden.device), first].float()
        weights = is_text / is_text.sum(dim=1, keepdim=True)
        return (weights[:, None] @ hidden.float())[:, 0]


def _positions(config: Any) -> int:
    """Return the number of usable position embeddings; RoBERTa-like models reserve the first ones for padding."""
    positions = int(config.max_position_embeddings)
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(config.pad_token_id) + 1
    return positions
