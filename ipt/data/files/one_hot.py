"""Find a column of texts with one further column per label, of which one is marked in each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipt.data.files.annotation_formats import Reading
from ipt.data.files.columns import is_bookkeeping, is_usual_output, only_input

_MARKS = {"1": True, "1.0": True, "true": True, "yes": True, "x": True, "0": False, "0.0": False, "false": False}
_MARKS |= {"no": False, "": False}
_MIN_LABELS = 2
_MOSTLY = 0.9
_MIN_SEVERAL = 3
"""Labels from which on rows with several marks are taken for several labels, and not for other data."""


@dataclass(frozen=True)
class OneHot:
    """The column of the texts, and the label of each other column."""

    text: str
    labels: Mapping[str, str]

    def read(self, record: Mapping[str, Any]) -> Reading:
        """Return the text and the marked labels of a row."""
        return Reading(record.get(self.text), [label for name, label in self.labels.items() if _mark(record.get(name))])


def find_one_hot(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OneHot | None:
    """Return the columns, if most of the first rows have a mark in one column of at least two; None otherwise."""
    text = only_input(names)
    if text is None or not rows:
        return None
    columns = [
        name
        for name in names
        if name.strip() and name != text and not is_bookkeeping(name) and _are_marks([row.get(name) for row in rows])
    ]
    marked = [sum(bool(_mark(row.get(name))) for name in columns) for row in rows]
    several = len(columns) >= _MIN_SEVERAL and sum(count > 0 for count in marked) * 2 > len(rows)
    if len(columns) < _MIN_LABELS or not (several or marked.count(1) >= _MOSTLY * len(rows)):
        return None
    return OneHot(text, dict(zip(columns, _without_prefix(columns), strict=True)))


def _are_marks(values: Sequence[object]) -> bool:
    marks = [_mark(value) for value in values]
    return None not in marks and any(_written(value) for value in values)


def _mark(value: object) -> bool | None:
    return _MARKS.get(_written(value))


def _written(value: object) -> str:
    return "" if value is None else str(value)[:10].strip().lower()


def _without_prefix(columns: Sequence[str]) -> list[str]:
    """Return the names of the labels, without a common prefix such as that of `label_refund`."""
    names = [name.strip() for name in columns]
    prefixes = {name.partition("_")[0] for name in names}
    if len(prefixes) == 1 and all("_" in name for name in names) and is_usual_output(prefixes.pop()):
        return [name.partition("_")[2] or name for name in names]
    return names
