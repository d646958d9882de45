"""What soft prompts are worth on the tasks that a subspace is found from: their loss on freshly drawn rows.

On an encoder that is the leave-one-out error of the ridge classifier (`ipt.readout.ridge`) on the readout's features
(`ipt.readout`): the subspace is found through the features that answer at inference, and docs/decisions/0001 says why
through another classifier on them. On a backbone that writes text it is the cross-entropy of the rows' outputs. The
rows of all tasks of a step are one batch.

Letters: J tasks of a step, N examples of a task, P prompt length, H hidden size.
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
    """One task's examples as the fit sees them: token ids, classes [N], and frozen embeddings [N, H]."""

    name: str
    family: str
    rows: str
    """Their `rows_hash`."""
    token_ids: list[TokenIds]
    classes: Tensor
    frozen: Tensor
    rows_of_class: list[list[int]] = field(default_factory=list)


@dataclass
class TextTask:
    """One task's examples as the fit sees them: token ids of inputs and outputs."""

    name: str
    family: str
    rows: str
    """Their `rows_hash`."""
    inputs: list[TokenIds]
    targets: list[TokenIds]


@dataclass(frozen=True)
class DrawnRows:
    """Rows of one task: which task, which of its rows, and on an encoder their classes, renumbered from 0."""

    task: int
    rows: list[int]
    classes: Tensor | None = None


class TaskLosses(ABC):
    """The prepared tasks of one backbone, for one fit: its constants are learned with the subspace."""

    backbone: Backbone
    tasks: Sequence[EncoderTask] | Sequence[TextTask]
    constants: dict[str, nn.Parameter]
    """What is learned beside the subspace, by name."""

    @abstractmethod
    def anew(self, options: RowOptions, backbone: Backbone | None = None) -> TaskLosses:
        """The same tasks for another fit, with options that ask for the same rows; its constants start anew.

        `backbone` is the same model, where its prompts are to stand elsewhere.
        """

    @abstractmethod
    def draw(self, chosen: Sequence[int], rng: np.random.Generator) -> list[DrawnRows]:
        """Rows of each of the chosen tasks."""

    @abstractmethod
    def measure(self, drawn: Sequence[DrawnRows], prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Losses [J] of the drawn rows behind their task's prompt [J, P, H], and accuracies [J] where they show.

        Differentiable with respect to `prompts` and the constants.
        """

    @abstractmethod
    def described(self) -> list[object]:
        """The tasks' data, for a hash."""

    def record(self) -> dict[str, object]:
        """What a manifest says of the tasks (`rows` are hashes of what was seen of each) and of the constants as they
        stand."""
        return {
            "tasks": [task.name for task in self.tasks],
            "families": [task.family for task in self.tasks],
            "rows": [task.rows for task in self.tasks],
        }

    @staticmethod
    def _prompt_of_row(drawn: Sequence[DrawnRows], prompts: Tensor) -> Tensor:
        """Prompts [J, P, H] of the tasks to those of all rows."""
        task_of_row = torch.cat([torch.full((len(part.rows),), number) for number, part in enumerate(drawn)])
        return prompts[task_of_row.to(prompts.device)]


class EncoderTaskLosses(TaskLosses):
    """Classification on an encoder. The ridge λ and the scale of the logits are learned."""

    def __init__(self, backbone: EncoderBackbone, tasks: Sequence[EncoderTask], options: RowOptions) -> None:
        self.backbone: EncoderBackbone = backbone
        self.tasks: Sequence[EncoderTask] = tasks
        self.options = options
        starts = {"log_ridge": 0.3, "log_scale": 8.0}
        self.constants = {
            name: nn.Parameter(torch.tensor(math.log(value), device=backbone.device)) for name, value in starts.items()
        }

    def anew(self, options: RowOptions, backbone: Backbone | None = None) -> EncoderTaskLosses:
        own = backbone or self.backbone
        assert isinstance(own, EncoderBackbone)
        return EncoderTaskLosses(own, self.tasks, options)

    def draw(self, chosen: Sequence[int], rng: np.random.Generator) -> list[DrawnRows]:
        """Of some of each task's classes, equally many rows each."""
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

    def anew(self, options: RowOptions, backbone: Backbone | None = None) -> TextTaskLosses:
        own = backbone or self.backbone
        assert isinstance(own, TextBackbone)
        return TextTaskLosses(own, self.tasks, options)

    def draw(self, chosen: Sequence[int], rng: np.random.Generator) -> list[DrawnRows]:
        sizes = [(task, len(self.tasks[task].inputs)) for task in chosen]
        return [DrawnRows(task, rng.permutation(size)[: self.options.rows_per_task].tolist()) for task, size in sizes]

    def measure(self, drawn: Sequence[DrawnRows], prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        losses = self.backbone.target_cross_entropy(
            [self.tasks[part.task].inputs[row] for part in drawn for row in part.rows],
            [self.tasks[part.task].targets[row] for part in drawn for row in part.rows],
            self._prompt_of_row(drawn, prompts),
            label_smoothing=TEXT_LABEL_SMOOTHING,
        )
        parts = torch.split(losses, [len(part.rows) for part in drawn])
        return torch.stack([part.mean() for part in parts]), None

    def described(self) -> list[object]:
        return [(task.name, task.family, task.inputs, task.targets) for task in self.tasks]
