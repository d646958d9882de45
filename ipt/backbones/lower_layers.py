"""The layers of an encoder below its prompted layers: a task's prompt never changes their output, so each text passes
them once.

Letters in shapes: B rows, T tokens, P prefix positions, H hidden size.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ipt.backbones.batching import CPU_BUCKETS, length_buckets, right_padded
from ipt.backbones.interface import TokenIds

DEFAULT_BYTES = 128 * 1024 * 1024


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return the transformer layers of a BERT-like encoder, the first one first."""
    encoder: Any = model
    layers: nn.ModuleList = (encoder.transformer if hasattr(encoder, "transformer") else encoder.encoder).layer
    return layers


class LowerLayers:
    """Runs the first layers of an encoder on a CPU, and keeps the states of the most recent texts. Thread-safe.

    Args:
        model: the encoder.
        count: how many of its layers run here.
        prefix: [count, 2, P, H], keys and values that every text reads in these layers.
        max_bytes: most memory of the states that are kept.
    """

    def __init__(
        self, model: nn.Module, count: int, prefix: Tensor | None = None, max_bytes: int = DEFAULT_BYTES
    ) -> None:
        self._model: Any = model
        self._layers = layers_of(model)[:count]
        self._prefixes: Tensor | None = None
        if prefix is not None:
            # The attention counts prefixed layers from the last one; those above are not run.
            above = prefix.new_zeros(len(layers_of(model)) - count, *prefix.shape[1:])
            self._prefixes = torch.cat([prefix, above])[None]
        self.max_bytes = max_bytes
        self._states: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self.kept_bytes = 0
        self._lock = threading.Lock()

    def states(self, rows: Sequence[TokenIds]) -> list[Tensor]:
        """Return the states [T, H] of each row of token ids; they have no gradient."""
        keys = [tuple(row) for row in rows]
        with self._lock:
            found = {key: states for key in keys if (states := self._states.get(key)) is not None}
            for key in found:
                self._states.move_to_end(key)
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        # Callers may be in inference mode, whose tensors take no part in a later gradient step.
        with torch.inference_mode(False), torch.no_grad():
            for bucket in length_buckets([len(key) for key in missing], *CPU_BUCKETS):
                found |= self._run([missing[number] for number in bucket])
        self._keep({key: found[key] for key in missing})
        return [found[key] for key in keys]

    def _run(self, rows: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Return the states [T, H] of rows that form one padded batch."""
        ids, lengths = right_padded(rows)
        embeds = self._model.get_input_embeddings()(ids)
        hidden = self._model.embeddings(input_ids=None, inputs_embeds=embeds)
        present = torch.arange(ids.shape[1]) < lengths[:, None]
        visible, attention_arguments = present, {}
        if self._prefixes is not None:
            visible = pad(present, (self._prefixes.shape[3], 0), value=True)
            attention_arguments = {"prefixes": self._prefixes.expand(len(rows), -1, -1, -1, -1)}
        mask = None if bool(present.all()) else visible[:, None, None].expand(-1, -1, ids.shape[1], -1)
        for layer in self._layers:
            hidden = layer(hidden, mask, **attention_arguments)
        # Clones, because a view would keep the memory of the whole batch.
        return {row: states[: len(row)].clone() for row, states in zip(rows, hidden, strict=True)}

    def _keep(self, states: dict[tuple[int, ...], Tensor]) -> None:
        with self._lock:
            for key, row in states.items():
                if key not in self._states:
                    self._states[key] = row
                    self.kept_bytes += row.nbytes
            while self.kept_bytes > self.max_bytes:
                self.kept_bytes -= self._states.popitem(last=False)[1].nbytes
