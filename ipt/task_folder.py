"""Read a folder of tasks, one JSONL file each: ``{"split": "train"|"test", "input": str, "output": str}`` a line.

An optional ``index.json`` maps each task's name to ``{"family": str, "split": "seen"|"unseen"}``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ipt.errors import DatasetError
from ipt.examples import Example, check_text, labels_of


@dataclass(frozen=True)
class FolderTask:
    """One task of a folder, all its rows."""

    name: str
    family: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]


def read_task_folder(folder: Path, split: str | None = None) -> list[FolderTask]:
    """The tasks of `folder` in order of name; only those of `split` in ``index.json`` when it is given.

    Raises:
        DatasetError: naming file and line of the first bad row, or saying what the folder lacks.
    """
    index_path = folder / "index.json"
    index: dict[str, dict[str, object]] = json.loads(index_path.read_text()) if index_path.is_file() else {}
    if split is not None and not index:
        raise DatasetError(f"{folder}: a split was asked for, but there is no index.json that names one")
    tasks = []
    for path in sorted(folder.glob("*.jsonl")):
        entry = index.get(path.stem, {})
        if split is None or entry.get("split") == split:
            tasks.append(_read_task(path, family=str(entry.get("family", path.stem))))
    if not tasks:
        raise DatasetError(f"{folder}: no task files (*.jsonl)" + (f" of split {split!r}" if split else ""))
    return tasks


def sample_per_label(examples: Sequence[Example], per_label: int, seed: int) -> list[Example]:
    """`per_label` examples of every label (all where there are fewer), chosen by `seed`, in the order they stand."""
    rng = np.random.default_rng([seed, per_label])
    by_label: dict[str, list[int]] = {label: [] for label in labels_of(examples)}
    for index, example in enumerate(examples):
        by_label[example.output].append(index)
    chosen = [index for rows in by_label.values() for index in rng.permutation(rows)[:per_label].tolist()]
    return [examples[index] for index in sorted(chosen)]


def _read_task(path: Path, family: str) -> FolderTask:
    rows: dict[str, list[Example]] = {"train": [], "test": []}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
            split = row["split"]
            example = Example(check_text(row["input"], where), check_text(row["output"], where))
            rows[split].append(example)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{where}: a row must be JSON with split ('train' or 'test'), input and output: {error!r}"
            ) from None
    if len(labels_of(rows["train"])) < 2:
        raise DatasetError(f"{path.name}: a task needs training rows of at least two labels")
    return FolderTask(path.stem, family, tuple(rows["train"]), tuple(rows["test"]))
