"""Prediction for rows of many tasks in one forward pass: each row stands behind its own task's prompt.

Letters: B rows, J distinct tasks among them, D intrinsic dimension, P prompt length, H hidden size, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.protocol import Backbone, TextBackbone, TokenIds
from ipt.errors import CheckpointError, IptError
from ipt.examples import text_fault
from ipt.readout import Embeddings, Readout
from ipt.subspace.store import Subspace
from ipt.task import BoundTask, TaskHead, bind


@dataclass(frozen=True)
class Prediction:
    """A label with the probability of every label, or a text."""

    label: str | None = None
    scores: dict[str, float] | None = None
    text: str | None = None


class Predictor:
    """Answers for any tasks of one subspace."""

    def __init__(self, backbone: Backbone, subspace: Subspace) -> None:
        subspace.check_backbone(backbone)
        self.backbone = backbone
        self.subspace = subspace

    def bind(self, head: TaskHead) -> BoundTask:
        """Check a task once, to be given to `predict` many times. See `ipt.task.bind` for the errors."""
        task = bind(head, self.subspace)
        if isinstance(self.backbone, EncoderBackbone) and task.readout is None:
            raise CheckpointError("a task of an encoder needs its readout to answer, and this one has none")
        return task

    @torch.inference_mode()
    def predict(self, rows: Sequence[tuple[TaskHead | BoundTask, str]]) -> list[Prediction]:
        """One prediction for each (task, text), in order.

        Raises, before anything is computed:
            IptError: a row is not a task and a text, or its text cannot be tokenized; and what `bind` raises.
        """
        if not rows:
            return []
        for number, row in enumerate(rows):
            _check_row(row, f"rows[{number}]")
        bound: dict[int, BoundTask] = {}
        for task, _ in rows:
            if id(task) not in bound:
                bound[id(task)] = task if isinstance(task, BoundTask) else self.bind(task)
        order = {key: number for number, key in enumerate(bound)}
        tasks = list(bound.values())
        task_of_row = [order[id(task)] for task, _ in rows]
        vectors = torch.stack([task.vector for task in tasks]).to(self.backbone.device)
        prompts = self.subspace.decoder(vectors)
        token_ids = self.backbone.tokenize([text for _, text in rows])
        per_row = prompts[torch.tensor(task_of_row, device=prompts.device)]
        if isinstance(self.backbone, EncoderBackbone):
            return self._classify(self.backbone, tasks, task_of_row, token_ids, per_row)
        assert isinstance(self.backbone, TextBackbone)
        return self._write(self.backbone, tasks, task_of_row, token_ids, per_row)

    def _classify(
        self,
        backbone: EncoderBackbone,
        tasks: Sequence[BoundTask],
        task_of_row: Sequence[int],
        token_ids: Sequence[TokenIds],
        prompts: Tensor,
    ) -> list[Prediction]:
        prompted, frozen = backbone.embed_both(token_ids, prompts)
        prompted, frozen = prompted.cpu(), frozen.cpu()
        answers: dict[int, Prediction] = {}
        for number, task in enumerate(tasks):
            own = [i for i, of in enumerate(task_of_row) if of == number]
            probabilities = _readout(task).logits(Embeddings(prompted[own], frozen[own])).softmax(dim=1)
            for i, row in zip(own, probabilities.tolist(), strict=True):
                scores = dict(zip(task.labels, row, strict=True))
                answers[i] = Prediction(label=max(scores, key=scores.__getitem__), scores=scores)
        return [answers[i] for i in range(len(task_of_row))]

    def _write(
        self,
        backbone: TextBackbone,
        tasks: Sequence[BoundTask],
        task_of_row: Sequence[int],
        token_ids: Sequence[TokenIds],
        prompts: Tensor,
    ) -> list[Prediction]:
        answers: dict[int, Prediction] = {}
        writes = [i for i, number in enumerate(task_of_row) if tasks[number].head.kind == "text2text"]
        if writes:
            texts = backbone.generate([token_ids[i] for i in writes], prompts[writes])
            answers |= {i: Prediction(text=text) for i, text in zip(writes, texts, strict=True)}
        for number, task in enumerate(tasks):
            own = [i for i, of in enumerate(task_of_row) if of == number and task.head.kind == "classification"]
            if own:
                labels = backbone.tokenize_targets(list(task.labels))
                likelihoods = backbone.score_labels([token_ids[i] for i in own], labels, prompts[own])
                for i, row in zip(own, likelihoods.softmax(dim=1).tolist(), strict=True):
                    scores = dict(zip(task.labels, row, strict=True))
                    answers[i] = Prediction(label=max(scores, key=scores.__getitem__), scores=scores)
        return [answers[i] for i in range(len(task_of_row))]


def _check_row(row: object, param: str) -> None:
    if not isinstance(row, tuple) or len(row) != 2 or not isinstance(row[0], TaskHead | BoundTask):
        found = [type(part).__name__ for part in row] if isinstance(row, tuple) else type(row).__name__
        raise IptError(f"{param} must be a pair of a TaskHead (or BoundTask) and a text, got {found}", param=param)
    fault = text_fault(row[1])
    if fault:
        raise IptError(f"the text of {param} {fault}", param=param)


def _readout(task: BoundTask) -> Readout:
    assert task.readout is not None  # `Predictor.bind` saw to it
    return task.readout
