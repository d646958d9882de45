"""Make a task of a dataset of the Hugging Face hub, or of a local one, with the package `datasets` (extra `hub`)."""

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
    """Where a task's rows are in a dataset."""

    input: str = "text"
    output: str = "label"
    label_names: Sequence[str] | None = None
    """Names of the numbers 0, 1, … in the output column; those of the dataset where None."""
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
    """One task of one dataset.

    Args:
        source: an id on the hub, a folder of data files, or what `save_to_disk` wrote.
        columns: which columns and splits are read.
        name, family: of the task.
        config, revision: of the dataset on the hub.
        most_rows: of each split; of more, so many are drawn, always the same.

    Raises:
        IptError: the package `datasets` is not installed.
        DatasetError: the dataset is not there or not as the columns say, or holds nothing to learn from.
    """
    if importlib.util.find_spec("datasets") is None:
        raise IptError("reading datasets needs a package: run `pip install 'intrinsic-prompt-tuning[hub]'`")
    splits = _load(source, config, revision)

    def rows() -> Iterator[Row]:
        for split, own_name in (("train", columns.train_split), ("test", columns.test_split)):
            if own_name not in splits:
                raise DatasetError(f"{source}: has no split {own_name!r}; it has {', '.join(map(repr, splits))}")
            data = splits[own_name]
            for column in (columns.input, columns.output):
                if column not in data.column_names:
                    raise DatasetError(
                        f"{source}: split {own_name!r} has no column {column!r}; it has "
                        f"{', '.join(map(repr, data.column_names))}"
                    )
            names = columns.label_names or getattr(data.features[columns.output], "names", None)
            kept = range(len(data)) if len(data) <= most_rows else sorted(_drawn(len(data), most_rows))
            for number, row in zip(kept, data.select(kept), strict=True):
                where = f"{source}, {own_name} row {number}"
                yield where, split, row[columns.input], _named(row[columns.output], names, where)

    return dataset_from_rows(name, family, rows(), source)


def _load(source: str, config: str | None, revision: str | None) -> Any:
    """The dataset's splits by name."""
    import datasets

    folder = Path(source)
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        loaded = datasets.load_from_disk(source) if saved else datasets.load_dataset(source, config, revision=revision)
    except Exception as error:  # of a dozen kinds, its own and those of what it reads with
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DatasetError(
            f"dataset {source!r} cannot be read: {reason} (offline, it must be a local folder or have been read before)"
        ) from error
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _named(value: object, names: Sequence[str] | None, where: str) -> object:
    """A label's name for its number; anything else as it is."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if names is None:
        raise DatasetError(f"{where}: the output is the number {value}, and the dataset names none: name them all")
    if not 0 <= value < len(names):
        raise DatasetError(f"{where}: the output is {value}, names are given for 0 to {len(names) - 1}")
    return names[value]


def _drawn(size: int, count: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(0).permutation(size)[:count].tolist()
    return drawn
