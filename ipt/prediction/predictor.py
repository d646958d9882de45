"""Prediction for rows of many tasks in one forward pass; each row has the prompt of its own task.

Letters: B rows, P prompt length, H hidden size.
"""

from __future__ import annotations

import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone, TokenIds
from ipt.data.examples import text_fault
from ipt.errors import BackboneError, CheckpointError, IptError, SubspaceMismatchError
from ipt.prediction.prompt_cache import DEFAULT_BYTES, PromptCache
from ipt.prediction.task_head import BoundTask, TaskHead, bind
from ipt.readout.embeddings import Embeddings
from ipt.readout.readout import Readout, StackedReadouts
from ipt.readout.scope import in_scope_of_rows
from ipt.runtime.memory import is_out_of_memory, positions_without_gradients
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.subspace import Subspace

PASSES_TO_GROW = 100
"""Passes without an out-of-memory error after which the limit of a pass doubles."""
SCORES_FOR_A_GROUP = 128
"""Scores (rows times labels) above which a task's readout gets a matrix multiplication of its own."""


@dataclass(frozen=True)
class Prediction:
    """A label, or several, with the probability of every label; or a text, or an embedding [H]."""

    label: str | None = None
    scores: dict[str, float] | None = None
    in_scope: float | None = None
    """The probability that the text belongs to any label; None if the task cannot tell."""
    text: str | None = None
    confidence: float | None = None
    """Of a text: the probability that it is right, from the geometric mean of the probabilities of its tokens."""
    labels: tuple[str, ...] | None = None
    """Of a multi-label task, the most probable label first."""
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)


Result = TypeVar("Result")
Answer = Callable[["Predictor", Sequence[BoundTask], Sequence[TokenIds]], list[Result]]


class Predictor:
    """Predicts for tasks of one subspace and of the subspaces in its library.

    `predict` and `embed` are not thread-safe. `bind` and `read` are.

    A pass has at most `max_positions` positions (prompts and texts together). The limit starts at what the device has
    room for, is halved when memory runs out, and grows back while it does not.
    """

    def __init__(
        self,
        backbone: Backbone,
        subspace: Subspace,
        *,
        prompt_bytes: int = DEFAULT_BYTES,
        library: SubspaceLibrary | None = None,
    ) -> None:
        """Create a predictor.

        Args:
            backbone: the frozen model.
            subspace: of most tasks.
            prompt_bytes: size of the cache of the prompts of recently used tasks, for each subspace.
            library: has the subspaces of other tasks, which are loaded when a task needs one.
        """
        self.backbone = backbone = subspace.placed(backbone)
        self.subspace = subspace
        self.prompt_positions = backbone.input_positions(subspace.prompt_length)
        self.max_positions = self._device_positions = positions_without_gradients(backbone)
        self._passes = 0
        self._library = library
        self._others: dict[str, Predictor] = {}
        self._loading = threading.Lock()
        self._tokenizing = threading.Lock()
        self._reader: Backbone | None = None
        self._prompt_bytes = prompt_bytes
        self._prompts = PromptCache(subspace.decoder, backbone.device, backbone.dtype, prompt_bytes)

    @property
    def subspace_ids(self) -> set[str]:
        """The subspaces whose tasks this predictor can answer."""
        others = [] if self._library is None else self._library.ids_for(self.backbone)
        return {self.subspace.id, *others}

    def bind(self, head: TaskHead) -> BoundTask:
        """Check a task once, so that `predict` need not; `ipt.prediction.task_head.bind` lists the errors."""
        other = self._predictor_of(head.subspace_id)
        if other is not self:
            return other.bind(head)
        task = bind(head, self.subspace)
        if isinstance(self.backbone, EncoderBackbone) and task.readout is None:
            raise CheckpointError("the task has no readout, which prediction on an encoder needs: adapt the task again")
        return task

    def read(self, texts: Sequence[str]) -> list[tuple[TokenIds, bool]]:
        """Tokenize texts for `predict`, and tell for each whether it was truncated. Thread-safe."""
        with self._tokenizing:
            if self._reader is None:
                self._reader = self.backbone.with_own_tokenizer()  # generation uses the backbone's own
            return self._reader.tokenize_flagged(texts, self.subspace.prompt_length)

    @torch.inference_mode()
    def predict(self, rows: Sequence[tuple[TaskHead | BoundTask, str | TokenIds]]) -> list[Prediction]:
        """Return a prediction for each (task, text), in order; a text may also be its token ids.

        Raises (before any computation):
            IptError: a row is not a pair of a task and a text, or its text cannot be tokenized.
            SubspaceMismatchError, CheckpointError: `bind` rejects a task.
        """
        return self._answer(rows, Predictor._predict)

    @torch.inference_mode()
    def embed(self, rows: Sequence[tuple[TaskHead | BoundTask, str | TokenIds]]) -> list[NDArray[np.float32]]:
        """Return the embedding [H] of each text with the prompt of its task, of unit length; raises as `predict` does.

        Raises:
            BackboneError: the backbone is not an encoder.
        """
        self._encoder()
        return self._answer(rows, Predictor._embed)

    @torch.inference_mode()
    def embed_frozen(self, texts: Sequence[str | TokenIds]) -> list[NDArray[np.float32]]:
        """Return the embedding [H] of each text without a prompt; raises as `embed` does."""
        self._encoder()
        return self.answer_in_passes([], self._tokenized(texts), Predictor._embed)

    def _answer(
        self, rows: Sequence[tuple[TaskHead | BoundTask, str | TokenIds]], answer: Answer[Result]
    ) -> list[Result]:
        """Check, bind and tokenize rows, and answer those of each subspace together."""
        for number, row in enumerate(rows):
            _check_row(row, f"rows[{number}]")
        bound: dict[int, BoundTask] = {}
        for task, _ in rows:
            if id(task) not in bound:
                bound[id(task)] = task if isinstance(task, BoundTask) else self.bind(task)
        ids = self._tokenized([text for _, text in rows])
        tasks = [bound[id(task)] for task, _ in rows]
        rows_of: dict[str, list[int]] = defaultdict(list)
        for number, task in enumerate(tasks):
            rows_of[task.head.subspace_id].append(number)
        answers: dict[int, Result] = {}
        for subspace_id, numbers in rows_of.items():
            predictor = self._predictor_of(subspace_id)
            own_tasks, own_ids = [tasks[row] for row in numbers], [ids[row] for row in numbers]
            answers.update(zip(numbers, predictor.answer_in_passes(own_tasks, own_ids, answer), strict=True))
        return [answers[number] for number in range(len(rows))]

    def _tokenized(self, texts: Sequence[str | TokenIds]) -> list[TokenIds]:
        """Return the token ids of each text, which may be token ids already."""
        tokenized = iter(self.backbone.tokenize([text for text in texts if isinstance(text, str)]))
        return [next(tokenized) if isinstance(text, str) else text for text in texts]

    def _encoder(self) -> EncoderBackbone:
        if not isinstance(self.backbone, EncoderBackbone):
            raise BackboneError(
                f"backbone {self.backbone.identity.id!r} writes text and has no sentence embeddings: load an encoder"
            )
        return self.backbone

    def _predictor_of(self, subspace_id: str) -> Predictor:
        """Return the predictor of a subspace, or this one if the library does not have the subspace."""
        if subspace_id == self.subspace.id or self._library is None:
            return self
        with self._loading:
            if subspace_id not in self._others:
                subspace = self._library.load(subspace_id, self.backbone)
                if subspace is None:
                    return self
                other = Predictor(self.backbone, subspace, prompt_bytes=self._prompt_bytes)
                if other.backbone.template != self.backbone.template:
                    # Texts are tokenized before it is known which tasks they are for.
                    raise SubspaceMismatchError(
                        f"subspace {subspace_id} puts other text around inputs than {self.subspace.id}, so one process "
                        "cannot answer in both: run a service of its own for it, with IPT_SUBSPACE"
                    )
                self._others[subspace_id] = other
            return self._others[subspace_id]

    def answer_in_passes(
        self, tasks: Sequence[BoundTask], token_ids: Sequence[TokenIds], answer: Answer[Result]
    ) -> list[Result]:
        """Answer the rows of `token_ids`, in passes that memory has room for.

        Args:
            tasks: the task of each row, all of this predictor's subspace; empty if the rows have none.
            token_ids: the rows.
            answer: answers the rows of one pass.
        """
        answers: list[Result] = []
        while len(answers) < len(token_ids):
            start = len(answers)
            end = start + self._rows_of_pass(token_ids[start:])
            try:
                answers += answer(self, tasks[start:end], token_ids[start:end])
            except Exception as error:
                if end - start == 1 or not is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # the frames keep tensors alive
                if self.backbone.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.max_positions = self._positions(token_ids[start:end]) // 2
                self._passes = 0
                continue
            self._passes += 1
            if self._passes % PASSES_TO_GROW == 0:
                self.max_positions = min(self._device_positions, 2 * self.max_positions)
        return answers

    def _rows_of_pass(self, token_ids: Sequence[TokenIds]) -> int:
        """Return how many of the first rows fit one pass; at least one."""
        positions = 0
        for number, row in enumerate(token_ids):
            positions += self.prompt_positions + len(row)
            if number and positions > self.max_positions:
                return number
        return len(token_ids)

    def _positions(self, token_ids: Sequence[TokenIds]) -> int:
        return sum(self.prompt_positions + len(row) for row in token_ids)

    def _embed(self, tasks: Sequence[BoundTask], token_ids: Sequence[TokenIds]) -> list[NDArray[np.float32]]:
        prompts = self._prompts_of(tasks)[2] if tasks else None
        return list(self._encoder().embed(token_ids, prompts).cpu().numpy())

    def _prompts_of(self, tasks: Sequence[BoundTask]) -> tuple[list[BoundTask], list[int], Tensor]:
        """Return the distinct tasks, for each row the number of its task among them, and its prompt [B, P, H]."""
        numbers = {task: number for number, task in enumerate(dict.fromkeys(tasks))}
        task_of_row = [numbers[task] for task in tasks]
        return list(numbers), task_of_row, self._prompts.prompts([task.vector for task in numbers], task_of_row)

    def _predict(self, tasks: Sequence[BoundTask], token_ids: Sequence[TokenIds]) -> list[Prediction]:
        distinct, task_of_row, prompts = self._prompts_of(tasks)
        if isinstance(self.backbone, EncoderBackbone):
            return self._classify(self.backbone, tasks, token_ids, prompts)
        assert isinstance(self.backbone, TextBackbone)
        return self._predict_text(self.backbone, distinct, task_of_row, token_ids, prompts)

    def _classify(
        self,
        backbone: EncoderBackbone,
        tasks: Sequence[BoundTask],
        token_ids: Sequence[TokenIds],
        prompts: Tensor,
    ) -> list[Prediction]:
        both = torch.stack(backbone.embed_both(token_ids, prompts))
        # Prepare the readouts while a GPU computes the embeddings.
        groups = [(rows, _readout_of_rows([tasks[row] for row in rows])) for rows in _groups(tasks)]
        prompted, frozen = both.cpu()
        predictions: dict[int, Prediction] = {}
        for rows, readout in groups:
            embeddings = Embeddings(prompted[rows], frozen[rows])
            in_scope = in_scope_of_rows([tasks[row].scope for row in rows], embeddings)
            logits = readout.logits(embeddings)
            for row, probabilities, each in zip(rows, logits.softmax(dim=1).tolist(), in_scope, strict=True):
                if tasks[row].head.kind != "multilabel":
                    predictions[row] = _most_likely(tasks[row].labels, probabilities, each)
            for number, row in enumerate(rows):
                if tasks[row].head.kind == "multilabel":
                    predictions[row] = _label_set(tasks[row], logits[number])
        return [predictions[row] for row in range(len(tasks))]

    def _predict_text(
        self,
        backbone: TextBackbone,
        tasks: Sequence[BoundTask],
        task_of_row: Sequence[int],
        token_ids: Sequence[TokenIds],
        prompts: Tensor,
    ) -> list[Prediction]:
        predictions: dict[int, Prediction] = {}
        text_rows = [row for row, number in enumerate(task_of_row) if tasks[number].head.kind == "text2text"]
        if text_rows:
            answers = backbone.answer([token_ids[row] for row in text_rows], prompts[text_rows])
            for row, answer in zip(text_rows, answers, strict=True):
                calibrated = tasks[task_of_row[row]].head.calibration(answer.confidence)
                predictions[row] = Prediction(text=answer.text, confidence=calibrated)
        for number, task in enumerate(tasks):
            if task.head.kind != "classification":
                continue
            rows = [row for row, task_number in enumerate(task_of_row) if task_number == number]
            labels = backbone.tokenize_targets(list(task.labels))
            scores = backbone.score_labels([token_ids[row] for row in rows], labels, prompts[rows])
            for row, probabilities in zip(rows, scores.softmax(dim=1).tolist(), strict=True):
                predictions[row] = _most_likely(task.labels, probabilities)
        return [predictions[row] for row in range(len(task_of_row))]


def _check_row(row: object, param: str) -> None:
    if not isinstance(row, tuple) or len(row) != 2 or not isinstance(row[0], TaskHead | BoundTask):
        types = [type(part).__name__ for part in row] if isinstance(row, tuple) else type(row).__name__
        raise IptError(f"{param} must be a pair of a TaskHead (or BoundTask) and a text, got {types}", param=param)
    fault = None if isinstance(row[1], list) else text_fault(row[1])
    if fault:
        raise IptError(f"the text of {param} {fault}", param=param)


def _groups(tasks: Sequence[BoundTask]) -> list[list[int]]:
    """Return the groups of rows whose readouts are computed together.

    A task with many rows is a group; the rows of other tasks are grouped by their number of labels.
    """
    rows_of: dict[BoundTask, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        rows_of[task].append(row)
    groups: list[list[int]] = []
    together: dict[int, list[int]] = defaultdict(list)
    for task, rows in rows_of.items():
        if len(rows) * len(task.labels) > SCORES_FOR_A_GROUP:
            groups.append(rows)
        else:
            together[len(task.labels)] += rows
    return groups + list(together.values())


def _most_likely(labels: Sequence[str], probabilities: Sequence[float], in_scope: float | None = None) -> Prediction:
    scores = dict(zip(labels, probabilities, strict=True))
    return Prediction(label=max(scores, key=scores.__getitem__), scores=scores, in_scope=in_scope)


def _label_set(task: BoundTask, logits: Tensor) -> Prediction:
    """Return the labels whose logits [C] reach their thresholds."""
    assert task.readout is not None
    assert task.readout.thresholds is not None  # `bind` requires it
    scores = dict(zip(task.labels, logits.sigmoid().tolist(), strict=True))
    answered = [
        label for label, is_answered in zip(task.labels, logits >= task.readout.thresholds, strict=True) if is_answered
    ]
    return Prediction(labels=tuple(sorted(answered, key=scores.__getitem__, reverse=True)), scores=scores)


def _readout_of_rows(tasks: Sequence[BoundTask]) -> Readout | StackedReadouts:
    """Return the readout of rows of one task, or the stacked readouts of rows of several."""
    readouts = [task.readout for task in tasks if task.readout is not None]  # `Predictor.bind` requires one
    return readouts[0] if all(readout is readouts[0] for readout in readouts) else StackedReadouts(readouts)
