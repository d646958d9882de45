"""Tuning a task on a backbone that writes text: the cross-entropy of each example's output after its input.

Both kinds of task are tuned alike, with label smoothing as in the reference of arXiv 2110.07867. They differ in how
they are measured: a text by how near the greedy answer is to it (exact match first), a label by being the likeliest of
all labels. Validation compares likelihoods, not scores: a few held-back rows give an exact match of zero for long
stretches in which the loss falls.

Letters: L lanes, B rows, C labels, D intrinsic dimension.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.backbones.interface import TextBackbone, TokenIds
from ipt.data.examples import Example, labels_of
from ipt.errors import DatasetError
from ipt.prediction.tasks import TaskHead
from ipt.subspace.subspace import Subspace
from ipt.tuning.job import AdaptedTask, TuningJob
from ipt.tuning.losses import MeanLoss
from ipt.tuning.program import Program, Steps
from ipt.tuning.quality import quality_warnings
from ipt.tuning.state import TuningState
from ipt.tuning.text_scores import TEXT_SCORES, mean_scores
from ipt.tuning.work import NO_PROMPT, Descend, Forward, Generate, Result, ScoreLabels, Work

VALIDATION_ROWS = 128
"""Most held-back rows that one validation reads."""
UNIT_TOKENS = 4096
"""Tokens of one unit of work without gradients, so that no single step of the engine takes long."""


class TextProgram(Program):
    """The work of one job on a text backbone."""

    def __init__(
        self, job: TuningJob, subspace: Subspace, backbone: TextBackbone, checkpoint: bytes | None = None
    ) -> None:
        super().__init__(job, subspace, backbone.device, checkpoint)
        self.started = time.monotonic()
        self.labels = labels_of(job.examples) if job.kind == "classification" else ()
        self.label_ids = backbone.tokenize_targets(self.labels)
        _check_distinct(self.labels, self.label_ids)
        # Where too few examples were given to hold any back, the rows tuned on are all there is to choose by.
        chosen_by = (self.held_back or self.train)[:VALIDATION_ROWS]
        self.measured_rows = len(chosen_by)
        self.measured = self.held_back[:VALIDATION_ROWS]
        self.train_rows = range(len(self.train))
        self.chosen_by_rows = range(len(self.train), len(self.train) + len(chosen_by))
        self.examples: list[Example] = [*self.train, *chosen_by]
        self.inputs = backbone.tokenize([example.input for example in self.examples])
        self.targets = backbone.tokenize_targets([example.output for example in self.examples])

    def prepare(self) -> Steps:
        """Nothing is computed before the first validation."""
        yield from ()

    def validation_losses(self, vectors: Tensor) -> Generator[Work, Result, list[float]]:
        losses = []
        for vector in vectors:
            if self.job.kind == "classification":
                scores = yield from self._label_scores(vector)
                losses.append(F.cross_entropy(scores, self._classes()).item())
            else:
                losses.append((yield from self._target_loss(vector)))
        return losses

    def descend_on(self, state: TuningState, learning_rate: float) -> Descend:
        lanes: list[int] = []
        rows: list[int] = []
        sizes = []
        for lane in range(state.lanes.vectors.shape[0]):
            drawn = self.rng(lane, state.lanes.step).permutation(len(self.train_rows))
            own = drawn[: self.job.hyperparameters.batch_size].tolist()
            lanes += [lane] * len(own)
            rows += own
            sizes.append(len(own))
        return Descend(
            state.lanes,
            lanes,
            [self.inputs[row] for row in rows],
            MeanLoss(sizes),
            learning_rate,
            targets=[self.targets[row] for row in rows],
        )

    def conclude(self, vector: Tensor) -> Generator[Work, Result, AdaptedTask]:
        (loss,) = yield from self.validation_losses(vector[None])
        tuned = yield from self._score(vector)
        zero = yield from self._score(torch.zeros_like(vector))
        without_prompt = yield from self._score(None)
        metric = "accuracy" if self.job.kind == "classification" else "exact_match"
        metrics: dict[str, float | int | str | None] = {
            "score_metric": metric,
            "score_source": "held_back" if self.measured else "none",
            "score": tuned.get(metric),
            "zero_vector_score": zero.get(metric),
            "baseline_score": without_prompt.get(metric),
            "baseline": "the backbone without a prompt",
            "held_back": len(self.measured),
            "loss": loss,
            "steps_run": 0 if self.state is None else self.state.lanes.step,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        if self.job.kind == "text2text":
            for of, scores in (("", tuned), ("zero_vector_", zero), ("baseline_", without_prompt)):
                metrics |= {f"{of}{name}": scores.get(name) for name in TEXT_SCORES}
        final = vector.detach().cpu().numpy().astype(np.float32)
        warnings = quality_warnings(tuned.get(metric), zero.get(metric), without_prompt.get(metric), len(self.measured))
        head = TaskHead(final, self.subspace.id, self.job.kind, self.labels, readout=None)
        return AdaptedTask(head, metrics, warnings)

    def _score(self, vector: Tensor | None) -> Generator[Work, Result, dict[str, float]]:
        """How well the held-back rows are answered, by name of the measure; nothing without such rows."""
        if not self.measured:
            return {}
        if self.job.kind == "classification":
            scores = yield from self._label_scores(vector)
            return {"accuracy": (scores.argmax(dim=1) == self._classes()).float().mean().item()}
        # An answer that is right has ended by then.
        longest = max(len(self.targets[row]) for row in self.chosen_by_rows)
        answers: list[str] = []
        for unit in self._units(self.chosen_by_rows, extra=longest):
            written = yield Generate(*self._behind(vector, len(unit)), self._inputs(unit), max_new_tokens=longest)
            assert isinstance(written, list)
            answers += written
        return mean_scores(answers, [self.examples[row].output for row in self.chosen_by_rows])

    def _label_scores(self, vector: Tensor | None) -> Generator[Work, Result, Tensor]:
        """[B, C] on the CPU, of the rows to choose by."""
        parts = []
        for unit in self._units(self.chosen_by_rows, extra=sum(map(len, self.label_ids))):
            scores = yield ScoreLabels(*self._behind(vector, len(unit)), self._inputs(unit), self.label_ids)
            assert isinstance(scores, Tensor)
            parts.append(scores.cpu())
        return torch.cat(parts)

    def _target_loss(self, vector: Tensor) -> Generator[Work, Result, float]:
        """Mean cross-entropy of the outputs of the rows to choose by."""
        total = 0.0
        for unit in self._units(self.chosen_by_rows):
            targets = [self.targets[row] for row in unit]
            losses = yield Forward(*self._behind(vector, len(unit)), self._inputs(unit), targets)
            assert isinstance(losses, Tensor)
            total += float(losses.sum())
        return total / len(self.chosen_by_rows)

    def _behind(self, vector: Tensor | None, rows: int) -> tuple[Tensor, list[int]]:
        """Vectors and lanes of rows that stand behind the prompt of `vector` [D], or behind none."""
        if vector is None:
            return torch.empty(0, self.subspace.intrinsic_dim, device=self.device), [NO_PROMPT] * rows
        return vector[None], [0] * rows

    def _inputs(self, rows: Sequence[int]) -> list[TokenIds]:
        return [self.inputs[row] for row in rows]

    def _units(self, rows: Sequence[int], extra: int = 0) -> Iterator[list[int]]:
        """The rows, as many at a time as fit a unit of work when each takes `extra` tokens more."""
        unit: list[int] = []
        tokens = 0
        for row in rows:
            length = self.subspace.prompt_length + len(self.inputs[row]) + len(self.targets[row]) + extra
            if unit and tokens + length > UNIT_TOKENS:
                yield unit
                unit, tokens = [], 0
            unit.append(row)
            tokens += length
        yield unit

    def _classes(self) -> Tensor:
        index = {label: number for number, label in enumerate(self.labels)}
        return torch.tensor([index[self.examples[row].output] for row in self.chosen_by_rows])


def _check_distinct(labels: Sequence[str], label_ids: Sequence[TokenIds]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for label, ids in zip(labels, label_ids, strict=True):
        other = seen.setdefault(tuple(ids), label)
        if other != label:
            raise DatasetError(
                f"the labels {other[:50]!r} and {label[:50]!r} are the same tokens to this backbone: rename one",
                param="examples",
            )
