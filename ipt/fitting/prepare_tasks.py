"""Prepare tasks for a fit: sample the rows that it may see, tokenize them, and embed them on an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone
from ipt.data.examples import labels_of
from ipt.data.task_dataset import TaskDataset, rows_hash
from ipt.errors import DatasetError
from ipt.fitting.fit_rows import RowOptions, fault_of_task, labelled_rows_of_fit, rows_of_fit
from ipt.fitting.task_losses import EncoderTask, EncoderTaskLosses, TaskLosses, TextTask, TextTaskLosses


def prepare_tasks(
    backbone: Backbone,
    tasks: Sequence[TaskDataset],
    options: RowOptions,
    on_task: Callable[[int, int], None] | None = None,
) -> TaskLosses:
    """Sample, tokenize and, on an encoder, embed the examples that a fit may see.

    Args:
        backbone: the frozen model.
        tasks: at least one.
        options: how many examples of each task, and how long.
        on_task: called with (done, total) after each task.

    Raises:
        DatasetError: an encoder cannot learn from a task, because a label has one training row, or the outputs are
            texts.
    """
    encoder_tasks: list[EncoderTask] = []
    text_tasks: list[TextTask] = []
    for number, task in enumerate(tasks, start=1):
        if isinstance(backbone, EncoderBackbone):
            encoder_tasks.append(_encoder_task(backbone, task, options))
        else:
            assert isinstance(backbone, TextBackbone)
            text_tasks.append(_text_task(backbone, task, options))
        if on_task:
            on_task(number, len(tasks))
    if isinstance(backbone, EncoderBackbone):
        return EncoderTaskLosses(backbone, encoder_tasks, options)
    assert isinstance(backbone, TextBackbone)
    return TextTaskLosses(backbone, text_tasks, options)


def _encoder_task(backbone: EncoderBackbone, task: TaskDataset, options: RowOptions) -> EncoderTask:
    if fault := fault_of_task(backbone, task, options.examples_per_label):
        raise DatasetError(fault)
    examples = labelled_rows_of_fit(task, options)
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])
    rows_of_class = [torch.nonzero(classes == c).flatten().tolist() for c in range(len(labels))]
    token_ids = backbone.tokenize([example.input for example in examples], max_tokens=options.max_tokens)
    with torch.inference_mode():
        frozen = backbone.embed(token_ids, None)
    return EncoderTask(task.name, task.family, rows_hash(examples), token_ids, classes, frozen.clone(), rows_of_class)


def _text_task(backbone: TextBackbone, task: TaskDataset, options: RowOptions) -> TextTask:
    examples = rows_of_fit(task, options)
    inputs = backbone.tokenize([example.input for example in examples], max_tokens=options.max_tokens)
    targets = backbone.tokenize_targets([example.output for example in examples])
    return TextTask(task.name, task.family, rows_hash(examples), inputs, targets)
