"""Cache of prefilled prompts: a task in use is decoded once, and read once by a `causal` backbone.

Letters: B rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.prediction.task_head import BoundTask
from ipt.subspace.subspace import Subspace


class PrefixCache:
    """The prompts of the most recently used tasks, in at most `max_bytes`.

    The key is the vector, not the task's id, so an entry can become useless but never wrong.
    """

    def __init__(self, backbone: PromptedTextBackbone, subspace: Subspace, max_bytes: int) -> None:
        self._backbone = backbone
        self._subspace = subspace
        self._max_bytes = max_bytes
        self._prefilled: OrderedDict[bytes, Tensor] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def of(self, tasks: Sequence[BoundTask]) -> Tensor:
        """Return the prefilled prompts [B, …] of these tasks, for `PromptedTextBackbone.prefill_after_prompts`."""
        keys = [task.vector.numpy().tobytes() for task in tasks]
        vectors = {key: task.vector for key, task in zip(keys, tasks, strict=True)}
        cached = {key: self._prefilled[key] for key in vectors if key in self._prefilled}
        missing = [key for key in vectors if key not in cached]
        self.hits += len(cached)
        self.misses += len(missing)
        if missing:
            stacked = torch.stack([vectors[key] for key in missing]).to(self._backbone.device)
            prefilled = self._backbone.prefill_prompts(self._subspace.decoder(stacked))
            # A view would keep all of them in memory as long as one of them is in use.
            cached |= {key: prefilled[number].clone() for number, key in enumerate(missing)}
        for key, prompt in cached.items():
            self._keep(key, prompt)
        return torch.stack([cached[key] for key in keys])

    def clear(self) -> None:
        """Drop all prompts."""
        self._prefilled.clear()
        self.bytes = 0

    def _keep(self, key: bytes, prompt: Tensor) -> None:
        if key not in self._prefilled:
            self._prefilled[key] = prompt
            self.bytes += prompt.nbytes
        self._prefilled.move_to_end(key)
        while self.bytes > self._max_bytes:
            _, dropped = self._prefilled.popitem(last=False)
            self.bytes -= dropped.nbytes
