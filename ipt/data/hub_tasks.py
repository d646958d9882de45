"""Read a task from a dataset, local or of the Hugging Face hub, with the package `datasets` (extra `hub`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ipt.data.task_dataset import Row, TaskDataset, dataset_from_rows
from ipt.errors import DatasetError, IptError


@dataclass(frozen=True)
class Columns:
    """The columns and splits of a dataset that a task's rows are read from."""

    input: str = "text"
    output: str = "label"
    label_names: Sequence[str] | None = None
    """Names of the numbers 0, 1, … in the output column; None: the names that the dataset has."""
    train_split: str = "train"
    test_split: str = "test"


def read_dataset(
    source: str,
    columns: Columns,
    *,
    name: str,
    family: str,
    config: str | None = None,
    revision: str | None = None,
    most_rows: int = 2000,
) -> TaskDataset:
    """Read one task from one dataset.

    Args:
        source: an id on the hub, a folder of data files, or a folder that `save_to_disk` wrote.
        columns: the columns and splits to read.
        name, family: of the task.
        config, revision: of the dataset on the hub.
        most_rows: of each split; from a larger split this many rows are drawn, always the same.

    Raises:
        IptError: the package `datasets` is not installed.
        DatasetError: the dataset cannot be read, lacks a column or split, or has too little to learn from.
    """
    if importlib.util.find_spec("datasets") is None:
        raise IptError("reading datasets needs a package: run `pip install 'intrinsic-prompt-tuning[hub]'`")
    splits = _load(source, config, revision)

    def rows() -> Iterator[Row]:
        for split, source_split in (("train", columns.train_split), ("test", columns.test_split)):
            if source_split not in splits:
                raise DatasetError(f"{source}: has no split {source_split!r}; it has {', '.join(map(repr, splits))}")
            data = splits[source_split]
            for column in (columns.input, columns.output):
                if column not in data.column_names:
                    raise DatasetError(
                        f"{source}: split {source_split!r} has no column {column!r}; it has "
                        f"{', '.join(map(repr, data.column_names))}"
                    )
            names = columns.label_names or getattr(data.features[columns.output], "names", None)
            kept = range(len(data)) if len(data) <= most_rows else sorted(_draw(len(data), most_rows))
            for number, row in zip(kept, data.select(kept), strict=True):
                position = f"{source}, {source_split} row {number}"
                yield position, split, row[columns.input], _label(row[columns.output], names, position)

    return dataset_from_rows(name, family, rows(), source)


def _load(source: str, config: str | None, revision: str | None) -> Any:
    """Return the dataset's splits by name."""
    import datasets

    folder = Path(source)
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        loaded = datasets.load_from_disk(source) if saved else datasets.load_dataset(source, config, revision=revision)
    except Exception as error:  # a dozen types, from `datasets` and from the readers that it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DatasetError(
            f"dataset {source!r} cannot be read: {reason} (offline, it must be a local folder or be in the cache)"
        ) from error
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _label(value: object, names: Sequence[str] | None, position: str) -> object:
    """Return the label's name if the value is a number, else the value."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if names is None:
        raise DatasetError(
            f"{position}: the output is the number {value}, and the dataset has no label names: name all labels"
        )
    if not 0 <= value < len(names):
        raise DatasetError(f"{position}: the output is {value}, but names are given for 0 to {len(names) - 1} only")
    return names[value]


def _draw(size: int, count: int) -> list[int]:
    indices: list[int] = np.random.default_rng(0).permutation(size)[:count].tolist()
    return indices
