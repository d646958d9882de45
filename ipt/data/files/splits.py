"""Find a column that says which split a row belongs to, and leave out the rows of a test or validation split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ipt.data.files.annotation_formats import Reading
from ipt.data.files.columns import folded

_NAMES = frozenset(["split", "datasplit", "dataset", "subset", "partition", "set", "mlset", "mluse"])
_TRAIN = frozenset(["train", "training", "trn"])
_OTHERS = frozenset(["test", "testing", "tst", "validation", "validate", "valid", "val", "dev", "eval", "holdout"])


def find_split(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the column that names the split of each of these rows; None if no column does."""
    for name in names:
        if folded(name) in _NAMES and rows and all(_split(row.get(name)) in _TRAIN | _OTHERS for row in rows):
            return name
    return None


def without_other_splits(
    rows: Iterator[tuple[int, Mapping[str, Any], Reading]], column: str, max_rows: int
) -> Iterator[tuple[int, Reading]]:
    """Yield the rows, of which those of other splits are skipped if there are training rows."""
    first = list(islice(rows, max_rows + 1))
    has_train = any(_split(record.get(column)) in _TRAIN for _, record, _ in first)
    for line, record, reading in first:
        split = _split(record.get(column))
        if has_train and split in _OTHERS:
            yield line, replace(reading, skip=f"of the split {split!r}")
        else:
            yield line, reading


def _split(value: object) -> str:
    return str(value)[:20].strip().casefold()
