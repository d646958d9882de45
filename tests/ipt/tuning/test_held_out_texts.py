"""The bytes of held-out texts."""

from typing import Any, cast

import numpy as np
import pytest

from ipt.errors import CheckpointError
from ipt.tuning.held_out_texts import HeldOutTexts

ROWS = np.array([4, 1], dtype=np.int32)
SURE = np.array([0.5, 1.0], dtype=np.float32)
HELD_OUT = HeldOutTexts(ROWS, ("grüße\x00", ""), SURE)


def test_the_bytes_of_held_out_texts_are_read_again() -> None:
    read = HeldOutTexts.from_bytes(HELD_OUT.to_bytes(), 5)
    np.testing.assert_array_equal(read.rows, ROWS)
    np.testing.assert_array_equal(read.confidences, SURE)
    assert read.texts == HELD_OUT.texts


@pytest.mark.parametrize(
    ("data", "num_rows", "message"),
    [
        (HELD_OUT.to_bytes()[:-1], 5, "not readable"),
        (HELD_OUT.to_bytes(), 4, "below 4"),
        (HeldOutTexts(ROWS, ("one",), SURE).to_bytes(), 5, "1 held-out texts"),
        (HeldOutTexts(ROWS, cast(Any, (1, 2)), SURE).to_bytes(), 5, "a list of texts"),
        (HeldOutTexts(ROWS, HELD_OUT.texts, SURE * np.float32(np.nan)).to_bytes(), 5, "from 0 to 1"),
    ],
)
def test_damaged_held_out_texts_are_rejected(data: bytes, num_rows: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HeldOutTexts.from_bytes(data, num_rows)
