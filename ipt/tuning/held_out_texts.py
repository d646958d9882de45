"""Texts that a text-to-text task writes for held-back examples, as a version keeps them for reports.

Letters: M measured rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from ipt.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class HeldOutTexts:
    """The texts that measure a text-to-text task."""

    rows: NDArray[np.int32]
    """[M]: the number of each row among the examples, which the validation examples follow."""
    texts: tuple[str, ...]
    """[M]: what the task writes for the input of each row, cut where the longest output of them ends."""
    confidences: NDArray[np.float32]
    """[M], calibrated, as predictions have them."""

    def to_bytes(self) -> bytes:
        """Return safetensors; an adaptation measures at most 128 rows."""
        texts = np.frombuffer(json.dumps(self.texts).encode(), dtype=np.uint8)
        data: bytes = save_safetensors({"rows": self.rows, "texts": texts, "confidences": self.confidences})
        return data

    @classmethod
    def from_bytes(cls, data: bytes, num_rows: int) -> HeldOutTexts:
        """Read the bytes of `to_bytes` for a dataset of `num_rows` rows.

        Raises:
            CheckpointError: the bytes are damaged, or belong to another dataset.
        """
        try:
            tensors = load_safetensors(data)
            rows, confidences = tensors["rows"], tensors["confidences"]
            texts = json.loads(tensors["texts"].tobytes())
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"the held-out texts are not readable: {error}") from None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise CheckpointError("held-out texts must be a list of texts")
        if (
            rows.dtype != np.int32
            or confidences.dtype != np.float32
            or not (rows.shape == confidences.shape == (len(texts),))
        ):
            raise CheckpointError(
                f"{len(texts)} held-out texts need as many int32 rows and float32 confidences, "
                f"got {rows.dtype} {list(rows.shape)} and {confidences.dtype} {list(confidences.shape)}"
            )
        if not ((confidences >= 0) & (confidences <= 1)).all() or ((rows < 0) | (rows >= num_rows)).any():
            raise CheckpointError(f"confidences must be from 0 to 1, and the rows of held-out texts below {num_rows}")
        return cls(rows, tuple(texts), confidences)
