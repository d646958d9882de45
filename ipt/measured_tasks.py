"""Which tasks of a folder can be measured, and on which of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from ipt.errors import DatasetError
from ipt.examples import check_examples, infer_kind
from ipt.subspace.store import Subspace
from ipt.subspace.task_losses import RowOptions, rows_not_fitted
from ipt.task_folder import FolderTask, few_shot, rows_lacking


def other_rows(tasks: Sequence[FolderTask], subspaces: Sequence[Subspace]) -> list[FolderTask]:
    """The tasks, those that a subspace was found from without the training rows that its fit saw."""
    asked: dict[RowOptions, set[str]] = {}
    for subspace in subspaces:
        training = subspace.manifest["training"]
        recorded = training.get("options", {})
        options = RowOptions(**{each.name: recorded[each.name] for each in fields(RowOptions) if each.name in recorded})
        asked.setdefault(options, set()).update(training.get("tasks", []))
    for options, names in asked.items():
        tasks = [rows_not_fitted(task, options) if task.name in names else task for task in tasks]
    return list(tasks)


def with_rows(tasks: Sequence[FolderTask], per_label: int, left_out: list[str]) -> list[FolderTask]:
    """Those of the tasks that can be measured with so many examples a label; of the others it is noted why not.

    Raises:
        DatasetError: none can.
    """
    faults = [_fault(task, per_label) for task in tasks]
    left_out += [fault for fault in faults if fault is not None and fault not in left_out]
    fit = [task for task, fault in zip(tasks, faults, strict=True) if fault is None]
    if not fit:
        raise DatasetError(f"no task can be measured with {per_label} examples a label; {left_out[-1]}")
    return fit


def _fault(task: FolderTask, per_label: int) -> str | None:
    if not task.test:
        return f"{task.name}: has no test rows"
    if not task.train:
        return f"{task.name}: has no training rows to draw from that no fit has seen"
    kind = infer_kind(task.train)
    if kind == "classification":
        unknown = {row.output for row in task.test} - {row.output for row in task.train}
        if unknown:
            return f"{task.name}: has test rows of {min(unknown)[:50]!r}, and no training rows of it to draw from"
    if lacking := rows_lacking(task.train, kind, per_label):
        found, asked, rows = lacking
        return f"{task.name}: has {found} {rows} to draw from, fewer than {asked}"
    try:
        check_examples(few_shot(task.train, max(2, per_label), 0))
    except DatasetError as error:
        return f"{task.name}: {error.message}"
    return None
