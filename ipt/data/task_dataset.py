"""The rows of one task, split into training and test rows, and the checks that they pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ipt.data.examples import Example, check_text, labels_of
from ipt.errors import DatasetError

SPLITS = ("train", "test")
Row = tuple[str, str, object, object]
"""A row before it is checked: its position (file and line), its split, its input and its output."""
PositionedExample = tuple[str, Example]
"""An example, after the position of its row."""


@dataclass(frozen=True)
class TaskDataset:
    """One task with all its rows."""

    name: str
    family: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    """Rows that were skipped or that are repeated, one line each, for a report."""
    source: str | None = field(default=None, compare=False)
    """The file or folder that the task was read from, for messages."""


def row_notes(tasks: Iterable[TaskDataset]) -> list[str]:
    """Return all tasks' notes on skipped and repeated rows."""
    return [note for task in tasks for note in task.notes]


def rows_hash(*parts: Sequence[Example]) -> str:
    """Return a hash of rows in their order. Fits and measurements are comparable only if it is equal."""
    rows = [[(row.input, row.output) for row in part] for part in parts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def dataset_from_rows(name: str, family: str, rows: Iterable[Row], source: str) -> TaskDataset:
    """Build a task from its rows.

    A row whose input occurred before with another output, or in the other split, is skipped and noted. Repeated rows
    are kept and noted.

    Raises:
        DatasetError: a text is invalid or empty, or there are too few training rows or labels.
    """
    of_split: dict[str, list[PositionedExample]] = {split: [] for split in SPLITS}
    first_rows: dict[str, tuple[str, str, str]] = {}
    notes: list[str] = []
    repeated: list[str] = []
    for position, split, text, output in rows:
        example = Example(check_text(text, position), check_text(output, position))
        first, first_split, first_output = first_rows.setdefault(example.input, (position, split, example.output))
        if first_output != example.output:
            notes.append(
                f"{position}: skipped: {example.output[:50]!r} for an input that has {first_output[:50]!r} in {first}"
            )
            continue
        if first_split != split:
            notes.append(f"{position}: skipped: the {split} row has the same input as the {first_split} row {first}")
            continue
        if first != position:
            repeated.append(position)
        of_split[split].append((position, example))
    if len(repeated) == 1:
        notes.append(f"{repeated[0]}: a repeated row, which is kept")
    elif repeated:
        notes.append(f"{repeated[0]}: the first of {len(repeated)} repeated rows, which are kept")
    check_trainable(source, of_split["train"])
    train, test = (tuple(example for _, example in of_split[split]) for split in SPLITS)
    return TaskDataset(name, family, train, test, tuple(notes))


def check_trainable(source: str, rows: Sequence[PositionedExample]) -> None:
    """Check that there are at least two training rows and two different outputs.

    Raises:
        DatasetError: there are not; the message starts with the first row's position, or with `source`.
    """
    if len(rows) < 2:
        position = rows[0][0] if rows else source
        raise DatasetError(f"{position}: a task needs at least two training rows, found {len(rows)}")
    outputs = labels_of([example for _, example in rows])
    if len(outputs) == 1:
        raise DatasetError(
            f"{rows[0][0]}: this and all other training rows have the output {outputs[0][:50]!r}; "
            "a task needs at least two different outputs"
        )
