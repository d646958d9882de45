"""Tuning a task on a text backbone: the loss is the cross-entropy of each example's output after its input.

Both kinds of task are tuned alike, with label smoothing as in the reference of arXiv 2110.07867. Their scores differ:
for text, the similarity of the greedy answer to the output (exact match first); for a label, whether it is the most
likely one. Validation compares losses rather than scores, because the exact match of a few held-back rows stays at zero
for many steps in which the loss falls.

Letters: L lanes, B rows, C labels, D intrinsic dimension.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.backbones.interface import Answer, TextBackbone, TokenIds
from ipt.data.examples import Example, labels_of
from ipt.data.near_duplicates import near_duplicate_groups
from ipt.data.sampling import balanced_sample
from ipt.errors import DatasetError
from ipt.prediction.task_head import TaskHead
from ipt.readout.calibration import IDENTITY, Calibration
from ipt.subspace.subspace import Subspace
from ipt.tuning.checkpoint import TuningState
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.held_out_texts import HeldOutTexts
from ipt.tuning.job import AdaptedTask, Metrics, TuningJob
from ipt.tuning.label_scores import score_labels
from ipt.tuning.losses import MeanLoss
from ipt.tuning.quality_warnings import quality_warnings
from ipt.tuning.reading_warnings import Vocabulary
from ipt.tuning.text_scores import TEXT_SCORES, exactly_matches, mean_scores
from ipt.tuning.tuning_loop import TuningLoop, split_rows
from ipt.tuning.work_units import NO_PROMPT, Forward, Generate, GradientStep, Result, ScoreLabels, Work, WorkStream

VALIDATIONS = 4
"""Validations of a run, besides the one before the first step."""
VALIDATION_ROWS = 128
"""Most held-back rows of one validation."""
UNIT_TOKENS = 4096
"""Tokens of one unit of work without gradients; bounds the duration of an engine step."""


class _Scores(NamedTuple):
    """Scores of the held-back rows by name, and what else was measured on them."""

    by_name: dict[str, float]
    logits: Tensor | None = None
    """Of a classification: the logits of the labels [B, C]."""
    calibration: Calibration = IDENTITY
    """Of the confidences of texts."""
    answers: Sequence[Answer] = ()
    """Of text to text: what is written for each row."""


class TextLoop(TuningLoop):
    """The work of one job on a text backbone."""

    def __init__(
        self, job: TuningJob, subspace: Subspace, backbone: TextBackbone, checkpoint: bytes | None = None
    ) -> None:
        super().__init__(job, subspace, backbone.device)
        self.resume_from(checkpoint)
        self.started = time.monotonic()
        self.labels = labels_of(job.examples) if job.kind == "classification" else ()
        self.label_ids = backbone.tokenize_targets(self.labels)
        _check_distinct(self.labels, self.label_ids)
        dataset = [*job.examples, *(job.validation_examples or [])]
        read = backbone.tokenize_flagged([example.input for example in dataset], subspace.prompt_length)
        train, held_back = split_rows(job, [ids for ids, _ in read])
        # Without held-back examples, validation has to use the training examples.
        self.validation_dataset_rows = self._validation_sample(dataset, held_back or train)
        self.held_back_count = min(len(held_back), VALIDATION_ROWS)
        self.train_rows = range(len(train))
        self.validation_rows = range(len(train), len(train) + len(self.validation_dataset_rows))
        rows = [*train, *self.validation_dataset_rows]
        self.examples = [dataset[row] for row in rows]
        self._prompt_positions = backbone.input_positions(subspace.prompt_length)
        self.inputs = [read[row][0] for row in rows]
        self.truncated = sum(read[row][1] for row in rows)
        self.unknown_tokens = Vocabulary(backbone).unknown_share(self.inputs)
        self.targets = backbone.tokenize_targets([example.output for example in self.examples])

    def prepare(self) -> WorkStream:
        """Compute nothing: the first validation is the first work."""
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

    def validation_interval(self) -> int:
        return max(1, -(-self.job.hyperparameters.steps // VALIDATIONS))

    def start_losses(self) -> Generator[Work, Result, list[float]]:
        return (yield from self.validation_losses(self.initial_vectors))

    def next_gradient_step(self, state: TuningState, learning_rate: float) -> GradientStep:
        lanes: list[int] = []
        rows: list[int] = []
        sizes = []
        for lane in range(state.lanes.vectors.shape[0]):
            drawn = self.rng(lane, state.lanes.step).permutation(len(self.train_rows))
            batch = drawn[: self.job.hyperparameters.batch_size].tolist()
            lanes += [lane] * len(batch)
            rows += batch
            sizes.append(len(batch))
        return GradientStep(
            state.lanes,
            lanes,
            [self.inputs[row] for row in rows],
            MeanLoss(sizes),
            learning_rate,
            targets=[self.targets[row] for row in rows],
        )

    def conclude(self, vectors: Tensor, start: Tensor) -> Generator[Work, Result, AdaptedTask]:
        (vector,) = vectors
        (loss,) = yield from self.validation_losses(vectors)
        tuned = yield from self._score(vector)
        untuned = yield from self._score(start)
        without_prompt = yield from self._score(None)
        metric = "accuracy" if self.job.kind == "classification" else "exact_match"
        metrics: Metrics = {
            "score_metric": metric,
            "score_source": "held_back" if self.held_back_count else "none",
            "score": tuned.by_name.get(metric),
            "start_score": untuned.by_name.get(metric),
            "baseline_score": without_prompt.by_name.get(metric),
            "baseline": "the backbone without a prompt",
            "held_back": self.held_back_count,
            "loss": loss,
            "truncated": self.truncated,
            "unknown_tokens": round(self.unknown_tokens, 4),
            "steps_run": 0 if self.state is None else self.state.lanes.step,
            "best_step": 0 if self.state is None else self.state.best_step,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        of_labels = None
        held_out: HeldOutLogits | HeldOutTexts | None = None
        if self.job.kind == "text2text":
            held_out = self._held_out_texts(tuned)
            for prefix, scores in (("", tuned), ("start_", untuned), ("baseline_", without_prompt)):
                metrics |= {f"{prefix}{name}": scores.by_name.get(name) for name in TEXT_SCORES}
        elif tuned.logits is not None:
            groups = near_duplicate_groups([self.examples[row] for row in self.validation_rows])
            predicted = tuned.logits.argmax(dim=1).tolist()
            of_labels = score_labels(predicted, self._classes().tolist(), self.labels, groups)
            metrics |= of_labels.metrics()
            held_out = HeldOutLogits.of(self.validation_dataset_rows, tuned.logits)
        final = vector.detach().cpu().numpy().astype(np.float32)
        warnings = quality_warnings(
            tuned.by_name.get(metric),
            untuned.by_name.get(metric),
            without_prompt.by_name.get(metric),
            self.held_back_count,
            of_labels,
            unknown_tokens=self.unknown_tokens,
        )
        head = TaskHead(final, self.subspace.id, self.job.kind, self.labels, None, calibration=tuned.calibration)
        return AdaptedTask(head, metrics, warnings, held_out)

    def _validation_sample(self, dataset: Sequence[Example], rows: Sequence[int]) -> list[int]:
        """Return at most `VALIDATION_ROWS` of the rows: of every label, or the first ones of text to text."""
        if self.job.kind == "text2text":
            return list(rows[:VALIDATION_ROWS])
        rng = np.random.default_rng([self.job.hyperparameters.seed, 3])
        return [rows[i] for i in balanced_sample([dataset[row] for row in rows], VALIDATION_ROWS, rng)]

    def _score(self, vector: Tensor | None) -> Generator[Work, Result, _Scores]:
        """Return the scores of the held-back rows; empty without held-back rows."""
        if not self.held_back_count:
            return _Scores({})
        if self.job.kind == "classification":
            logits = yield from self._label_scores(vector)
            accuracy = (logits.argmax(dim=1) == self._classes()).float().mean().item()
            return _Scores({"accuracy": accuracy}, logits)
        # A correct answer is no longer than the longest target.
        longest = max(len(self.targets[row]) for row in self.validation_rows)
        answers: list[Answer] = []
        for unit in self._units(self.validation_rows, extra=longest):
            written = yield Generate(*self._lanes(vector, len(unit)), self._inputs(unit), max_new_tokens=longest)
            assert isinstance(written, list)
            answers += written
        texts = [answer.text for answer in answers]
        targets = [self.examples[row].output for row in self.validation_rows]
        right = [exactly_matches(*pair) for pair in zip(texts, targets, strict=True)]
        calibration = Calibration.fit([answer.confidence for answer in answers], right)
        return _Scores(mean_scores(texts, targets), calibration=calibration, answers=answers)

    def _held_out_texts(self, tuned: _Scores) -> HeldOutTexts | None:
        if not tuned.answers:
            return None
        return HeldOutTexts(
            np.asarray(self.validation_dataset_rows, dtype=np.int32),
            tuple(answer.text for answer in tuned.answers),
            np.array([tuned.calibration(answer.confidence) for answer in tuned.answers], dtype=np.float32),
        )

    def _label_scores(self, vector: Tensor | None) -> Generator[Work, Result, Tensor]:
        """Return the label scores [B, C] of the validation rows, on the CPU."""
        parts = []
        for unit in self._units(self.validation_rows, extra=sum(map(len, self.label_ids))):
            scores = yield ScoreLabels(*self._lanes(vector, len(unit)), self._inputs(unit), self.label_ids)
            assert isinstance(scores, Tensor)
            parts.append(scores.cpu())
        return torch.cat(parts)

    def _target_loss(self, vector: Tensor) -> Generator[Work, Result, float]:
        """Return the mean cross-entropy of the outputs of the validation rows."""
        total = 0.0
        for unit in self._units(self.validation_rows):
            targets = [self.targets[row] for row in unit]
            losses = yield Forward(*self._lanes(vector, len(unit)), self._inputs(unit), targets)
            assert isinstance(losses, Tensor)
            total += float(losses.sum())
        return total / len(self.validation_rows)

    def _lanes(self, vector: Tensor | None, rows: int) -> tuple[Tensor, list[int]]:
        """Return the vectors and the lane of each row, for rows with the prompt of `vector` [D] or without a prompt."""
        if vector is None:
            return torch.empty(0, self.subspace.intrinsic_dim, device=self.device), [NO_PROMPT] * rows
        return vector[None], [0] * rows

    def _inputs(self, rows: Sequence[int]) -> list[TokenIds]:
        return [self.inputs[row] for row in rows]

    def _units(self, rows: Sequence[int], extra: int = 0) -> Iterator[list[int]]:
        """Yield the rows in units of at most `UNIT_TOKENS` tokens, counting `extra` tokens for each row."""
        unit: list[int] = []
        tokens = 0
        for row in rows:
            length = self._prompt_positions + len(self.inputs[row]) + len(self.targets[row]) + extra
            if unit and tokens + length > UNIT_TOKENS:
                yield unit
                unit, tokens = [], 0
            unit.append(row)
            tokens += length
        yield unit

    def _classes(self) -> Tensor:
        index = {label: number for number, label in enumerate(self.labels)}
        return torch.tensor([index[self.examples[row].output] for row in self.validation_rows])


def _check_distinct(labels: Sequence[str], label_ids: Sequence[TokenIds]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for label, ids in zip(labels, label_ids, strict=True):
        other = seen.setdefault(tuple(ids), label)
        if other != label:
            raise DatasetError(
                f"the labels {other[:50]!r} and {label[:50]!r} are the same tokens to this backbone: rename one",
                param="examples",
            )
