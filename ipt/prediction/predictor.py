"""Prediction for rows of many tasks in one forward pass: each row stands behind its own task's prompt.

Letters: B rows, J distinct tasks among them, D intrinsic dimension, P prompt length, H hidden size, C classes.
"""

from __future__ import annotations

import copy
import threading
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone, TokenIds
from ipt.data.examples import text_fault
from ipt.errors import CheckpointError, IptError
from ipt.prediction.prompt_cache import DEFAULT_BYTES, PromptCache
from ipt.prediction.tasks import BoundTask, TaskHead, bind
from ipt.readout.embeddings import Embeddings
from ipt.readout.readout import Readout, StackedReadouts
from ipt.runtime.memory import is_out_of_memory, positions_without_gradients
from ipt.subspace.subspace import Subspace

PASSES_TO_GROW = 100
"""Passes without running out of memory after which twice as much is tried."""
SCORES_FOR_A_GROUP = 128
"""Scores (rows times labels) from which on a task's readout is worth a multiplication of its own."""


@dataclass(frozen=True)
class Prediction:
    """A label with the probability of every label, or a text."""

    label: str | None = None
    scores: dict[str, float] | None = None
    text: str | None = None


class Predictor:
    """Answers for any tasks of one subspace; one thread at a time may ask `predict`.

    Rows beyond `most_positions` (prompts and texts together) are computed in several passes. It starts at what the
    device has room for, is halved when memory runs out all the same, and grows back while it does not.
    """

    def __init__(self, backbone: Backbone, subspace: Subspace, *, prompt_bytes: int = DEFAULT_BYTES) -> None:
        """`prompt_bytes` bounds the memory in which the prompts of the tasks asked last are kept."""
        subspace.check_backbone(backbone)
        self.backbone = backbone
        self.subspace = subspace
        self.most_positions = self._room = positions_without_gradients(backbone)
        self._passes = 0
        self._tokenizing = threading.Lock()
        self._reader: Backbone | None = None
        self._prompts = PromptCache(subspace.decoder, backbone.device, backbone.dtype, prompt_bytes)

    def bind(self, head: TaskHead) -> BoundTask:
        """Check a task once, to be given to `predict` many times. See `ipt.prediction.tasks.bind` for the errors."""
        task = bind(head, self.subspace)
        if isinstance(self.backbone, EncoderBackbone) and task.readout is None:
            raise CheckpointError("a task of an encoder needs its readout to answer, and this one has none")
        return task

    def read(self, texts: Sequence[str]) -> list[tuple[TokenIds, bool]]:
        """The texts as `predict` takes them too, and whether each is too long to be read whole; any thread may ask."""
        with self._tokenizing:
            if self._reader is None:
                # A tokenizer refuses two threads at once, and the backbone's own is in use while it writes.
                self._reader = copy.copy(self.backbone)
                self._reader.tokenizer = copy.deepcopy(self.backbone.tokenizer)
            return self._reader.tokenize_flagged(texts, self.subspace.prompt_length)

    @torch.inference_mode()
    def predict(self, rows: Sequence[tuple[TaskHead | BoundTask, str | TokenIds]]) -> list[Prediction]:
        """One prediction for each (task, text), in order; a text may be given as its tokens.

        Raises, before anything is computed:
            IptError: a row is not a task and a text, or its text cannot be tokenized; and what `bind` raises.
        """
        for number, row in enumerate(rows):
            _check_row(row, f"rows[{number}]")
        bound: dict[int, BoundTask] = {}
        for task, _ in rows:
            if id(task) not in bound:
                bound[id(task)] = task if isinstance(task, BoundTask) else self.bind(task)
        texts = [text for _, text in rows if isinstance(text, str)]
        tokenized = iter(self.backbone.tokenize(texts))
        ids = [next(tokenized) if isinstance(text, str) else text for _, text in rows]
        return self._in_passes([bound[id(task)] for task, _ in rows], ids)

    def _in_passes(self, tasks: Sequence[BoundTask], token_ids: Sequence[TokenIds]) -> list[Prediction]:
        answers: list[Prediction] = []
        while len(answers) < len(tasks):
            start = len(answers)
            end = start + self._fitting(token_ids[start:])
            try:
                answers += self._predict(tasks[start:end], token_ids[start:end])
            except Exception as error:
                if end - start == 1 or not is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # the frames hold the tensors that there was no room for
                if self.backbone.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.most_positions = self._positions(token_ids[start:end]) // 2
                self._passes = 0
                continue
            self._passes += 1
            if self._passes % PASSES_TO_GROW == 0:
                self.most_positions = min(self._room, 2 * self.most_positions)
        return answers

    def _fitting(self, token_ids: Sequence[TokenIds]) -> int:
        """How many of the first rows one pass takes: one at least."""
        positions = 0
        for number, row in enumerate(token_ids):
            positions += self.subspace.prompt_length + len(row)
            if number and positions > self.most_positions:
                return number
        return len(token_ids)

    def _positions(self, token_ids: Sequence[TokenIds]) -> int:
        return sum(self.subspace.prompt_length + len(row) for row in token_ids)

    def _predict(self, tasks: Sequence[BoundTask], token_ids: Sequence[TokenIds]) -> list[Prediction]:
        numbers = {task: number for number, task in enumerate(dict.fromkeys(tasks))}
        task_of_row = [numbers[task] for task in tasks]
        distinct = list(numbers)
        prompts = self._prompts.prompts([task.vector for task in distinct], task_of_row)
        if isinstance(self.backbone, EncoderBackbone):
            return self._classify(self.backbone, tasks, token_ids, prompts)
        assert isinstance(self.backbone, TextBackbone)
        return self._write(self.backbone, distinct, task_of_row, token_ids, prompts)

    def _classify(
        self,
        backbone: EncoderBackbone,
        tasks: Sequence[BoundTask],
        token_ids: Sequence[TokenIds],
        prompts: Tensor,
    ) -> list[Prediction]:
        both = torch.stack(backbone.embed_both(token_ids, prompts))
        # While a GPU is at work on them, and is not waited for yet.
        groups = [(rows, _readout_of_rows([tasks[row] for row in rows])) for rows in _groups(tasks)]
        prompted, frozen = both.cpu()
        answers: dict[int, Prediction] = {}
        for rows, readout in groups:
            logits = readout.logits(Embeddings(prompted[rows], frozen[rows]))
            for row, probabilities in zip(rows, logits.softmax(dim=1).tolist(), strict=True):
                answers[row] = _most_likely(tasks[row].labels, probabilities)
        return [answers[row] for row in range(len(tasks))]

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
                    answers[i] = _most_likely(task.labels, row)
        return [answers[i] for i in range(len(task_of_row))]


def _check_row(row: object, param: str) -> None:
    if not isinstance(row, tuple) or len(row) != 2 or not isinstance(row[0], TaskHead | BoundTask):
        found = [type(part).__name__ for part in row] if isinstance(row, tuple) else type(row).__name__
        raise IptError(f"{param} must be a pair of a TaskHead (or BoundTask) and a text, got {found}", param=param)
    fault = None if isinstance(row[1], list) else text_fault(row[1])
    if fault:
        raise IptError(f"the text of {param} {fault}", param=param)


def _groups(tasks: Sequence[BoundTask]) -> list[list[int]]:
    """Rows whose readouts are computed together: a task's many rows, and the few rows of others of as many labels."""
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


def _most_likely(labels: Sequence[str], probabilities: Sequence[float]) -> Prediction:
    scores = dict(zip(labels, probabilities, strict=True))
    return Prediction(label=max(scores, key=scores.__getitem__), scores=scores)


def _readout_of_rows(tasks: Sequence[BoundTask]) -> Readout | StackedReadouts:
    """The readout of the rows' tasks, or one of each where they have several."""
    readouts = [task.readout for task in tasks if task.readout is not None]  # `Predictor.bind` saw to it
    return readouts[0] if all(readout is readouts[0] for readout in readouts) else StackedReadouts(readouts)
