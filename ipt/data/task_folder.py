"""Read a folder of tasks: each a JSONL file or a folder of TSV files (`ipt.data.task_files`), with an index."""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from ipt.data.examples import text_fault
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_files import INDEX_FILE, Index, read_index, read_jsonl_task, read_tsv_task
from ipt.errors import DatasetError

INDEX_SPLITS = ("seen", "unseen")
NAMED_TASKS = 5
"""Most tasks that a message names."""


@dataclass(frozen=True)
class TaskFolder:
    """The tasks that were read from a folder, and the tasks that were skipped."""

    tasks: list[TaskDataset]
    faults: list[str]
    """What is wrong with each task that cannot be used."""
    unlisted: list[str]
    """Files of the tasks that the index does not name, if only one split was read."""

    @property
    def skipped(self) -> list[str]:
        """Why each skipped task was skipped, for a report."""
        return [*self.faults, *(f"{name}: left out, as index.json does not name the task" for name in self.unlisted)]

    def require_all(self) -> list[TaskDataset]:
        """Return the tasks if no task has a fault.

        Raises:
            DatasetError: the first fault.
        """
        if self.faults:
            raise DatasetError(self.faults[0])
        return self.tasks


def read_task_folder(folder: Path, split: str | None = None) -> TaskFolder:
    """Read the tasks of `folder` in order of name; with a split, only the tasks of that split in ``index.json``.

    Raises:
        DatasetError: the index is invalid or missing, a task exists in both formats, or no task can be used.
    """
    index = read_index(folder / INDEX_FILE)
    if split is not None and not index:
        raise DatasetError(
            f"{folder}: there is no index.json that names the tasks of a split: add it, or read all tasks"
        )
    paths = _task_paths(folder)
    index_faults = _index_faults(folder / INDEX_FILE, index, paths)
    faults = list(index_faults.values())
    tasks = []
    for name, path in sorted(paths.items()):
        entry = index.get(name, {})
        if name in index_faults or split not in (None, entry.get("split")):
            continue
        read_task = read_tsv_task if path.is_dir() else read_jsonl_task
        try:
            tasks.append(replace(read_task(path, str(entry.get("family", name))), source=path.name))
        except DatasetError as error:
            faults.append(error.message)
    if not tasks and faults:
        raise DatasetError(f"{folder}: no task can be used; the first of {len(faults)} errors: {faults[0]}")
    if not tasks:
        of_split = f" of split {split!r}" if split else ""
        raise DatasetError(f"{folder}: no tasks (*.jsonl, or */*_train.tsv){of_split}")
    unlisted = [path.name for name, path in sorted(paths.items()) if split is not None and name not in index]
    return TaskFolder(tasks, faults, unlisted)


def _task_paths(folder: Path) -> dict[str, Path]:
    """Return the file or the folder of each task by its name."""
    paths = {path.stem: path for path in folder.glob("*.jsonl")}
    for path in folder.glob("*/"):
        if any(path.glob("*.tsv")):
            if path.name in paths:
                raise DatasetError(
                    f"{folder}: task {path.name!r} exists twice, as JSONL and as TSV: remove one of them"
                )
            paths[path.name] = path
    return paths


def _index_faults(path: Path, index: Index, names: Collection[str]) -> dict[str, str]:
    """Return what is wrong with each task of the index that has no file, or an invalid split or family."""
    faults = {}
    for name, entry in index.items():
        if name not in names:
            faults[name] = (
                f"{path}: names the task {name!r}, but the folder has no {name}.jsonl and no folder {name} with TSV "
                f"files; it has {_listed(names)}: add the file, or remove the task from index.json"
            )
        elif "split" in entry and entry["split"] not in INDEX_SPLITS:
            faults[name] = (
                f"{path}: the task {name!r} has the split {reprlib.repr(entry['split'])}; "
                f"allowed: {', '.join(map(repr, INDEX_SPLITS))}"
            )
        elif fault := text_fault(entry.get("family", "")):
            faults[name] = f"{path}: the family of the task {name!r} {fault}"
    return faults


def _listed(names: Collection[str]) -> str:
    if not names:
        return "no tasks"
    first = ", ".join(map(repr, sorted(names)[:NAMED_TASKS]))
    return first if len(names) <= NAMED_TASKS else f"{first} and {len(names) - NAMED_TASKS} more"
