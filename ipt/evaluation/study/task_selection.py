"""Choose a limited number of tasks, spread over their families."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

from ipt.data.task_dataset import TaskDataset


def spread_over_families(tasks: Sequence[TaskDataset], limit: int | None) -> list[TaskDataset]:
    """Return at most `limit` tasks in order of name, chosen round robin from the families; None: all."""
    if limit is None or len(tasks) <= limit:
        return list(tasks)
    families: dict[str, list[TaskDataset]] = {}
    for task in tasks:
        families.setdefault(task.family, []).append(task)
    round_robin = [task for task in chain.from_iterable(zip_longest(*families.values())) if task is not None]
    return sorted(round_robin[:limit], key=lambda task: task.name)
