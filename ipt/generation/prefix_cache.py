"""What a task costs before its first input, computed once: its decoded prompt, for `causal` read by the backbone.

Letters: B rows, J distinct tasks, P prompt length, H hidden size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.prediction.tasks import BoundTask
from ipt.subspace.subspace import Subspace


class PrefixCache:
    """The most recently used tasks' prompts, in at most `most_bytes`.

    An entry belongs to a vector, not to a task's name, so it can be useless but never wrong.
    """

    def __init__(self, backbone: PromptedTextBackbone, subspace: Subspace, most_bytes: int) -> None:
        self._backbone = backbone
        self._subspace = subspace
        self._most_bytes = most_bytes
        self._read: OrderedDict[bytes, Tensor] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def of(self, tasks: Sequence[BoundTask]) -> Tensor:
        """What `PromptedTextBackbone.prefill_after_prompts` takes for rows of these tasks, [B, …]."""
        keys = [task.vector.numpy().tobytes() for task in tasks]
        vectors = {key: task.vector for key, task in zip(keys, tasks, strict=True)}
        found = {key: self._read[key] for key in vectors if key in self._read}
        missing = [key for key in vectors if key not in found]
        self.hits += len(found)
        self.misses += len(missing)
        if missing:
            stacked = torch.stack([vectors[key] for key in missing]).to(self._backbone.device)
            made = self._backbone.prefill_prompts(self._subspace.decoder(stacked))
            # A view would keep all of them in memory for as long as one of them is used.
            found |= {key: made[number].clone() for number, key in enumerate(missing)}
        for key, read in found.items():
            self._keep(key, read)
        return torch.stack([found[key] for key in keys])

    def clear(self) -> None:
        """Give all memory back."""
        self._read.clear()
        self.bytes = 0

    def _keep(self, key: bytes, read: Tensor) -> None:
        if key not in self._read:
            self._read[key] = read
            self.bytes += read.nbytes
        self._read.move_to_end(key)
        while self.bytes > self._most_bytes:
            _, dropped = self._read.popitem(last=False)
            self.bytes -= dropped.nbytes
