"""The bytes of held-out logits."""

import numpy as np
import pytest

from ipt.errors import CheckpointError
from ipt.tuning.held_out import HeldOutLogits

HELD_OUT = HeldOutLogits(np.array([4, 1], dtype=np.int32), np.array([[0.1, 0.2, 3.0], [1, 2, -3]], dtype=np.float32))


def test_the_bytes_of_held_out_logits_are_read_again() -> None:
    read = HeldOutLogits.from_bytes(HELD_OUT.to_bytes(), 5, 3)
    np.testing.assert_array_equal(read.rows, HELD_OUT.rows)
    np.testing.assert_array_equal(read.logits, HELD_OUT.logits)


@pytest.mark.parametrize(
    ("data", "num_rows", "num_classes", "message"),
    [
        (HELD_OUT.to_bytes()[:-1], 5, 3, "not readable"),
        (HELD_OUT.to_bytes(), 4, 3, "below 4"),
        (HELD_OUT.to_bytes(), 5, 4, "of 4 labels"),
        (HeldOutLogits(HELD_OUT.rows, HELD_OUT.logits * np.float32(np.inf)).to_bytes(), 5, 3, "finite"),
    ],
)
def test_damaged_held_out_logits_are_rejected(data: bytes, num_rows: int, num_classes: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HeldOutLogits.from_bytes(data, num_rows, num_classes)


def test_pairs_of_near_duplicates_are_kept_and_checked() -> None:
    with_pairs = HeldOutLogits(HELD_OUT.rows, HELD_OUT.logits, np.array([[0, 3]], dtype=np.int32))
    assert HeldOutLogits.from_bytes(with_pairs.to_bytes(), 5, 3).near_duplicates.tolist() == [[0, 3]]
    assert HeldOutLogits.from_bytes(HELD_OUT.to_bytes(), 5, 3).near_duplicates.shape == (0, 2)
    out_of_range = HeldOutLogits(HELD_OUT.rows, HELD_OUT.logits, np.array([[0, 5]], dtype=np.int32))
    with pytest.raises(CheckpointError, match="below 5"):
        HeldOutLogits.from_bytes(out_of_range.to_bytes(), 5, 3)
