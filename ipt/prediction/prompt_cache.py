"""Cache of soft prompts, so that a task in use is decoded once.

Letters: B rows, J distinct tasks, D intrinsic dimension, P prompt length, H hidden size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.backbones.batching import to_device
from ipt.subspace.prompt_decoder import PromptDecoder

DEFAULT_BYTES = 64 * 1024 * 1024


class PromptCache:
    """The prompts of the most recently used vectors, keyed by their values. Not thread-safe.

    All prompts are in one block [slots, P, H] of at most `max_bytes`, so that one indexing gathers those of a batch.
    """

    def __init__(
        self, decoder: PromptDecoder, device: torch.device, dtype: torch.dtype, max_bytes: int = DEFAULT_BYTES
    ) -> None:
        self._decoder = decoder
        shape = (decoder.prompt_length, decoder.hidden_size)
        slots = max_bytes // (shape[0] * shape[1] * dtype.itemsize)
        # On a CPU, the system provides the memory of a slot when it is first written.
        self._block = torch.empty(slots, *shape, device=device, dtype=dtype)
        self._slots: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def prompts(self, vectors: Sequence[Tensor], vector_of_row: Sequence[int]) -> Tensor:
        """Return the prompt of each row [B, P, H].

        Args:
            vectors: J distinct vectors [D] on the CPU.
            vector_of_row: for each row, the index of its vector.
        """
        if len(vectors) > len(self._block):
            return self._decode(vectors)[self._index(vector_of_row)]
        keys = [vector.numpy().tobytes() for vector in vectors]
        new = {key: vector for key, vector in zip(keys, vectors, strict=True) if key not in self._slots}
        for key in keys:  # first, so that new keys evict no key of this batch
            if key not in new:
                self._slots.move_to_end(key)
        if new:
            decoded = self._decode(list(new.values()))
            try:
                self._block[self._index([self._take_slot(key) for key in new])] = decoded
            except BaseException:
                # The new slots have undefined content.
                self._slots.clear()
                raise
        return self._block[self._index([self._slots[keys[number]] for number in vector_of_row])]

    def _decode(self, vectors: Sequence[Tensor]) -> Tensor:
        prompts: Tensor = self._decoder(to_device(torch.stack(list(vectors)), self._block.device))
        return prompts.to(self._block.dtype)

    def _take_slot(self, key: bytes) -> int:
        full = len(self._slots) == len(self._block)
        slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
        self._slots[key] = slot
        return slot

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return to_device(torch.tensor(numbers), self._block.device)
