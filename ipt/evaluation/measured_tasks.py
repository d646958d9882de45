"""Which tasks of a folder can be measured, and on which of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from ipt.backbones.interface import Family
from ipt.data.examples import Example, check_examples, infer_kind
from ipt.data.task_folder import FolderTask, few_shot, rows_hash, rows_lacking
from ipt.errors import DatasetError
from ipt.fitting.task_losses import RowOptions, rows_of_fit
from ipt.subspace.subspace import Subspace


def other_rows(tasks: Sequence[FolderTask], subspaces: Sequence[Subspace], notes: list[str]) -> list[FolderTask]:
    """The tasks, those that a subspace was found from without the training rows that its fit saw.

    Which those are follows from its options and the task's rows. Where a task's rows have changed since, it is noted.
    """
    return [_without_fitted(task, subspaces, notes) for task in tasks]


def _without_fitted(task: FolderTask, subspaces: Sequence[Subspace], notes: list[str]) -> FolderTask:
    fitted: set[Example] = set()
    for subspace in subspaces:
        training = subspace.manifest["training"]
        if task.name not in training.get("tasks", []):
            continue
        recorded = training.get("options", {})
        options = RowOptions(**{each.name: recorded[each.name] for each in fields(RowOptions) if each.name in recorded})
        rows = rows_of_fit(task, options)
        fitted.update(rows)
        if not was_found_from(subspace, task.name, rows):
            notes.append(
                f"{task.name}: its rows have changed since {subspace.id} was found from it, which may have seen some "
                "of those that it is measured with"
            )
    return replace(task, train=tuple(row for row in task.train if row not in fitted))


def was_found_from(subspace: Subspace, task: str, rows: Sequence[Example]) -> bool:
    """Whether the subspace was found from these rows of the task, as far as its manifest says."""
    training = subspace.manifest["training"]
    recorded = dict(zip(training.get("tasks", []), training.get("rows", []), strict=False))
    return recorded.get(task) in (None, rows_hash(rows))


def with_rows(tasks: Sequence[FolderTask], per_label: int, left_out: list[str], family: Family) -> list[FolderTask]:
    """Those of the tasks that a backbone of this family can be measured on with so many examples a label.

    Of the others it is noted why not.

    Raises:
        DatasetError: none can.
    """
    faults = [_fault(task, per_label, family) for task in tasks]
    left_out += [fault for fault in faults if fault is not None and fault not in left_out]
    fit = [task for task, fault in zip(tasks, faults, strict=True) if fault is None]
    if not fit:
        raise DatasetError(f"no task can be measured with {per_label} examples a label; {left_out[-1]}")
    return fit


def _fault(task: FolderTask, per_label: int, family: Family) -> str | None:
    if not task.test:
        return f"{task.name}: has no test rows"
    if not task.train:
        return f"{task.name}: has no training rows to draw from that no fit has seen"
    kind = infer_kind(task.train)
    if kind == "text2text" and family == "encoder":
        return f"{task.name}: the outputs are texts, not labels that repeat, and an encoder does not write text"
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
