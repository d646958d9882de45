"""The loss of soft prompts on freshly drawn rows of the tasks that a subspace is found from.

On an encoder it is the leave-one-out error of a ridge classifier (`ipt.readout.ridge`) on the readout's features
(`ipt.readout`): the subspace is found through the features used at inference, but through another classifier on them
(docs/decisions/0001 says why). On a backbone that writes text it is the cross-entropy of the rows' outputs. The rows of
all tasks of a step form one batch.

Letters: J tasks in a step, N examples of a task, P prompt length, H hidden size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone, TokenIds
from ipt.fitting.fit_rows import RowOptions
from ipt.readout.embeddings import Embeddings
from ipt.readout.ridge import class_targets, gram, leave_one_out
from ipt.tuning.losses import RIDGE_LABEL_SMOOTHING, TEXT_LABEL_SMOOTHING


@dataclass
class EncoderTask:
    """The examples of one task, prepared for a fit: token ids, classes [N], and frozen embeddings [N, H]."""

    name: str
    family: str
    rows: str
    """The examples' `rows_hash`."""
    token_ids: list[TokenIds]
    classes: Tensor
    frozen: Tensor
    rows_of_class: list[list[int]] = field(default_factory=list)


@dataclass
class TextTask:
    """The examples of one task, prepared for a fit: token ids of inputs and outputs."""

    name: str
    family: str
    rows: str
    """The examples' `rows_hash`."""
    inputs: list[TokenIds]
    targets: list[TokenIds]


@dataclass(frozen=True)
class DrawnRows:
    """Rows drawn from one task: the task's index, the rows' indices, and on an encoder their classes from 0 on."""

    task: int
    rows: list[int]
    classes: Tensor | None = None


class TaskLosses(ABC):
    """The prepared tasks of one fit, on one backbone."""

    backbone: Backbone
    tasks: Sequence[EncoderTask] | Sequence[TextTask]
    constants: dict[str, nn.Parameter]
    """Parameters of the loss that are trained with the subspace, by name."""

    @abstractmethod
    def for_another_fit(self, options: RowOptions, backbone: Backbone | None = None) -> TaskLosses:
        """Return the same tasks for another fit, with constants at their start.

        Args:
            options: must select the same rows.
            backbone: the same model with another prompt placement; None: the same backbone.
        """

    @abstractmethod
    def draw(self, chosen: Sequence[int], rng: np.random.Generator) -> list[DrawnRows]:
        """Draw rows of each chosen task."""

    @abstractmethod
    def measure(self, drawn: Sequence[DrawnRows], prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the losses [J] of the drawn rows with their tasks' prompts [J, P, H], and accuracies [J] if known.

        The losses are differentiable with respect to `prompts` and the constants.
        """

    @abstractmethod
    def described(self) -> list[object]:
        """Return the tasks' data, to be hashed."""

    def record(self) -> dict[str, object]:
        """Return the manifest's entries on the tasks (`rows` has a hash of the rows used of each) and the constants."""
        return {
            "tasks": [task.name for task in self.tasks],
            "families": [task.family for task in self.tasks],
            "rows": [task.rows for task in self.tasks],
        }

    @staticmethod
    def _prompt_of_row(drawn: Sequence[DrawnRows], prompts: Tensor) -> Tensor:
        """Expand the prompts of tasks [J, P, H] to the prompts of all drawn rows."""
        task_of_row = torch.cat([torch.full((len(part.rows),), number) for number, part in enumerate(drawn)])
        return prompts[task_of_row.to(prompts.device)]


class EncoderTaskLosses(TaskLosses):
    """Classification on an encoder. The ridge λ and the scale of the logits are trained."""

    def __init__(self, backbone: EncoderBackbone, tasks: Sequence[EncoderTask], options: RowOptions) -> None:
        self.backbone: EncoderBackbone = backbone
        self.tasks: Sequence[EncoderTask] = tasks
        self.options = options
        starts = {"log_ridge": 0.3, "log_scale": 8.0}
        self.constants = {
            name: nn.Parameter(torch.tensor(math.log(value), device=backbone.device)) for name, value in starts.items()
        }

    def for_another_fit(self, options: RowOptions, backbone: Backbone | None = None) -> EncoderTaskLosses:
        backbone = backbone or self.backbone
        assert isinstance(backbone, EncoderBackbone)
        return EncoderTaskLosses(backbone, self.tasks, options)

    def draw(self, chosen: Sequence[int], rng: np.random.Generator) -> list[DrawnRows]:
        """Draw equally many rows of some of each task's classes."""
        return [self._draw_rows(task, rng) for task in chosen]

    def measure(self, drawn: Sequence[DrawnRows], prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        token_ids = [self.tasks[part.task].token_ids[row] for part in drawn for row in part.rows]
        embedded = self.backbone.embed(token_ids, self._prompt_of_row(drawn, prompts))
        log_ridge, log_scale = self.constants["log_ridge"], self.constants["log_scale"]
        losses, correct = [], []
        parts = torch.split(embedded, [len(part.rows) for part in drawn])
        for part, prompted in zip(drawn, parts, strict=True):
            assert part.classes is not None
            frozen = self.tasks[part.task].frozen[part.rows]
            kernel = gram(Embeddings(prompted, frozen.to(prompted)).features())
            classes = part.classes.to(kernel.device)
            scores = leave_one_out(kernel, class_targets(classes, int(classes.max()) + 1), log_ridge.exp())
            losses.append(F.cross_entropy(log_scale.exp() * scores, classes, label_smoothing=RIDGE_LABEL_SMOOTHING))
            correct.append((scores.argmax(1) == classes).float().mean())
        return torch.stack(losses), torch.stack(correct)

    def described(self) -> list[object]:
        return [(task.name, task.family, task.token_ids, task.classes.tolist()) for task in self.tasks]

    def record(self) -> dict[str, object]:
        readout = {name.removeprefix("log_"): round(c.exp().item(), 6) for name, c in self.constants.items()}
        return {**super().record(), "readout": readout}

    def _draw_rows(self, task: int, rng: np.random.Generator) -> DrawnRows:
        rows_of_class = self.tasks[task].rows_of_class
        num_classes = min(len(rows_of_class), self.options.classes_per_task)
        per_class = max(2, self.options.rows_per_task // num_classes)
        rows: list[int] = []
        classes: list[int] = []
        for number, c in enumerate(rng.choice(len(rows_of_class), size=num_classes, replace=False)):
            drawn = rng.permutation(rows_of_class[c])[:per_class].tolist()
            rows += drawn
            classes += [number] * len(drawn)
        return DrawnRows(task, rows, torch.tensor(classes))


class TextTaskLosses(TaskLosses):
    """Any outputs on a backbone that writes text."""

    def __init__(self, backbone: TextBackbone, tasks: Sequence[TextTask], options: RowOptions) -> None:
        self.backbone: TextBackbone = backbone
        self.tasks: Sequence[TextTask] = tasks
        self.options = options
        self.constants = {}

    def for_another_fit(self, options: RowOptions, backbone: Backbone | None = None) -> TextTaskLosses:
        backbone = backbone or self.backbone
        assert isinstance(backbone, TextBackbone)
        return TextTaskLosses(backbone, self.tasks, options)

    def draw(self, chosen: Sequence[int], rng: np.random.Generator) -> list[DrawnRows]:
        sizes = [(task, len(self.tasks[task].inputs)) for task in chosen]
        return [DrawnRows(task, rng.permutation(size)[: self.options.rows_per_task].tolist()) for task, size in sizes]

    def measure(self, drawn: Sequence[DrawnRows], prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        losses = self.backbone.target_cross_entropy(
            [self.tasks[part.task].inputs[row] for part in drawn for row in part.rows],
            [self.tasks[part.task].targets[row] for part in drawn for row in part.rows],
            prompts,
            label_smoothing=TEXT_LABEL_SMOOTHING,
            prompt_of_row=[number for number, part in enumerate(drawn) for _ in part.rows],
        )
        parts = torch.split(losses, [len(part.rows) for part in drawn])
        return torch.stack([part.mean() for part in parts]), None

    def described(self) -> list[object]:
        return [(task.name, task.family, task.inputs, task.targets) for task in self.tasks]
