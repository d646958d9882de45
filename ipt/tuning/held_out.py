"""Logits of a task's examples by classifiers that were not fitted to them, as a version keeps them for reports.

Letters: M measured rows, C classes or labels, K pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor

from ipt.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class HeldOutLogits:
    """The logits that measure a classification task: out of fold, or of held-back examples."""

    rows: NDArray[np.int32]
    """[M]: the number of each row among the examples, which the validation examples follow."""
    logits: NDArray[np.float32]
    """[M, C], in the order of the task's labels."""
    near_duplicates: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 2), dtype=np.int32))
    """[K, 2]: the numbers of examples that hardly differ for the backbone and have different labels."""

    @classmethod
    def of(cls, rows: Sequence[int], logits: Tensor, near_duplicates: Sequence[tuple[int, int]] = ()) -> HeldOutLogits:
        """Return the logits [M, C] of some rows [M], with pairs of near-duplicates."""
        pairs = np.asarray(near_duplicates, dtype=np.int32).reshape(-1, 2)
        return cls(np.asarray(rows, dtype=np.int32), logits.detach().cpu().numpy().astype(np.float32), pairs)

    def to_bytes(self) -> bytes:
        """Return safetensors of 4 · M · (C + 1) bytes and 8 for each pair; an adaptation measures at most 256 rows."""
        tensors = {"rows": self.rows, "logits": self.logits}
        if len(self.near_duplicates):
            tensors["near_duplicates"] = self.near_duplicates
        data: bytes = save_safetensors(tensors)
        return data

    @classmethod
    def from_bytes(cls, data: bytes, num_rows: int, num_classes: int) -> HeldOutLogits:
        """Read the bytes of `to_bytes` for a dataset of `num_rows` rows and a task of `num_classes` labels.

        Raises:
            CheckpointError: the bytes are damaged, or belong to another dataset or task.
        """
        try:
            tensors = load_safetensors(data)
            rows, logits = tensors["rows"], tensors["logits"]
            pairs = tensors.get("near_duplicates", np.empty((0, 2), dtype=np.int32))
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"the held-out logits are not readable: {error}") from None
        if rows.dtype != np.int32 or logits.dtype != np.float32 or logits.shape != (rows.size, num_classes):
            raise CheckpointError(
                f"held-out logits of {num_classes} labels must be int32 rows [M] and float32 logits [M, {num_classes}],"
                f" got {rows.dtype} {list(rows.shape)} and {logits.dtype} {list(logits.shape)}"
            )
        if pairs.dtype != np.int32 or pairs.shape != (len(pairs), 2):
            raise CheckpointError(f"near-duplicates must be int32 [K, 2], got {pairs.dtype} {list(pairs.shape)}")
        numbers = np.concatenate([rows, pairs.ravel()])
        if not np.isfinite(logits).all() or ((numbers < 0) | (numbers >= num_rows)).any():
            raise CheckpointError(f"held-out logits must be finite, and their rows below {num_rows}")
        return cls(rows, logits, pairs)
