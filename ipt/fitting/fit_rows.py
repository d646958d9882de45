"""Which rows of each task a fit sees, and which tasks a backbone cannot learn from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone
from ipt.data.examples import Example, infer_kind, rarest_label
from ipt.data.sampling import TEXTS_PER_LABEL, sample_per_label
from ipt.data.task_dataset import TaskDataset


@dataclass(frozen=True)
class RowOptions:
    """What a fit sees of each task, and how much of it in one step."""

    tasks_per_step: int = 3
    rows_per_task: int = 18
    classes_per_task: int = 6
    """Most classes of a task whose rows an encoder compares in one step."""
    examples_per_label: int = 128
    """Most examples of each label that the fit may see, and never more than half of the label's training rows: the
    other rows are kept for measuring the seen tasks."""
    max_tokens: int = 64
    """Longer inputs are shortened to this many tokens."""
    seed: int = 0


def rows_of_fit(task: TaskDataset, options: RowOptions) -> list[Example]:
    """Return the training rows of the task that a fit with these options sees."""
    if infer_kind(task.train) == "classification":
        return labelled_rows_of_fit(task, options)
    allowed = min(TEXTS_PER_LABEL * options.examples_per_label, max(2, len(task.train) // 2))
    drawn = np.random.default_rng([options.seed, allowed]).permutation(len(task.train))[:allowed]
    return [task.train[row] for row in sorted(drawn.tolist())]


def labelled_rows_of_fit(task: TaskDataset, options: RowOptions) -> list[Example]:
    """Return the training rows that a fit sees of a task whose outputs are labels."""
    counts = Counter(example.output for example in task.train)
    allowed = {label: min(options.examples_per_label, max(2, count // 2)) for label, count in counts.items()}
    examples = []
    for example in sample_per_label(task.train, max(allowed.values()), options.seed):
        if allowed[example.output] > 0:
            allowed[example.output] -= 1
            examples.append(example)
    return examples


def fault_of_task(backbone: Backbone, task: TaskDataset, max_per_label: int) -> str | None:
    """Return why the backbone cannot learn from at most `max_per_label` rows of each label; None if it can."""
    if not isinstance(backbone, EncoderBackbone):
        return None
    source = task.source or task.name
    label, rows = rarest_label(task.train)
    rows = min(rows, max_per_label)
    if rows >= 2:
        return None
    if infer_kind(task.train) != "classification":
        return (
            f"{source}: the outputs are texts, not labels that repeat, and an encoder does not write text: fit on a "
            "backbone that writes text, or leave this task out; if they are labels, give at least two training rows of "
            "each"
        )
    return (
        f"{source}: the label {label[:50]!r} has {rows} training row that the fit may see, and the fit needs at least "
        "two of every label: add rows with this label, or remove its row"
    )
