"""Decide which tasks can be measured, and on which of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from ipt.backbones.interface import Family
from ipt.data.examples import Example, infer_kind
from ipt.data.preparation import check_unified
from ipt.data.sampling import few_shot, rows_lacking
from ipt.data.task_dataset import TaskDataset, rows_hash
from ipt.errors import DatasetError
from ipt.fitting.fit_rows import RowOptions, rows_of_fit
from ipt.subspace.subspace import Subspace


def without_fitted_rows(
    tasks: Sequence[TaskDataset], subspaces: Sequence[Subspace]
) -> tuple[list[TaskDataset], list[str]]:
    """Return the tasks without the training rows that the fit of any of the subspaces saw, and notes.

    A fit's options and a task's rows determine which rows it saw. A note names each task whose rows have changed since.
    """
    notes: list[str] = []
    return [_without_fitted_rows(task, subspaces, notes) for task in tasks], notes


def _without_fitted_rows(task: TaskDataset, subspaces: Sequence[Subspace], notes: list[str]) -> TaskDataset:
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
                f"{task.name}: its rows have changed since {subspace.id} was found from it; some of the rows that it "
                "is measured with may have been fitted"
            )
    return replace(task, train=tuple(row for row in task.train if row not in fitted))


def was_found_from(subspace: Subspace, task: str, rows: Sequence[Example]) -> bool:
    """Return whether the manifest says that the subspace was found from these rows of the task, or says nothing."""
    training = subspace.manifest["training"]
    recorded = dict(zip(training.get("tasks", []), training.get("rows", []), strict=False))
    return recorded.get(task) in (None, rows_hash(rows))


def measurable_tasks(
    tasks: Sequence[TaskDataset], per_label: int, family: Family
) -> tuple[list[TaskDataset], list[str]]:
    """Return the tasks that can be measured with `per_label` examples per label, and why each other task cannot."""
    faults = [_fault(task, per_label, family) for task in tasks]
    measurable = [task for task, fault in zip(tasks, faults, strict=True) if fault is None]
    return measurable, [fault for fault in faults if fault is not None]


def no_measurable_task(per_label: int, faults: Sequence[str]) -> DatasetError:
    return DatasetError(f"no task can be measured with {per_label} examples per label; {faults[-1]}")


def _fault(task: TaskDataset, per_label: int, family: Family) -> str | None:
    if not task.test:
        return f"{task.name}: has no test rows"
    if not task.train:
        return f"{task.name}: has no training rows that no fit has seen"
    kind = infer_kind(task.train)
    if kind == "text2text" and family == "encoder":
        return f"{task.name}: the outputs are texts, not labels that repeat, and an encoder does not write text"
    if kind == "classification":
        unknown = {row.output for row in task.test} - {row.output for row in task.train}
        if unknown:
            return f"{task.name}: has test rows of {min(unknown)[:50]!r}, but no training rows of it to draw from"
    if lacking := rows_lacking(task.train, kind, per_label):
        available, needed, rows = lacking
        return f"{task.name}: has {available} {rows} to draw from, fewer than {needed}"
    try:
        check_unified(few_shot(task.train, max(2, per_label), 0), None, None)
    except DatasetError as error:
        return f"{task.name}: {error.message}"
    return None
