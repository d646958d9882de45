"""Tuning a classification task on an encoder.

The loss of a step is the leave-one-out error of a ridge classifier on its rows (`ipt.ridge`), as in the fit of the
subspace; validation fits the readout (`ipt.readout`) to the training examples and measures it on the held-back ones.

Letters: L lanes, B rows of a step, N examples, C classes, H hidden size, D intrinsic dimension.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.backbones.encoder import EncoderBackbone
from ipt.examples import Example, labels_of
from ipt.readout import BLEND, Embeddings, fit_readout, frozen_half
from ipt.ridge import class_targets, gram, leave_one_out
from ipt.subspace.store import Subspace
from ipt.tuning.job import AdaptedTask, TuningJob
from ipt.tuning.program import Program, Steps
from ipt.tuning.quality import quality_warnings
from ipt.tuning.state import TuningState
from ipt.tuning.work import NO_PROMPT, Descend, Forward, Result, Work

MAX_CLASSES_PER_STEP = 6
LABEL_SMOOTHING = 0.05
TUNING_TOKENS = 128
"""Longer texts are cut to this many tokens while tuning; prediction reads all that the backbone can."""
READOUT_ROWS = 4096
"""Most training examples that the final readout is fitted to."""
VALIDATION_ROWS = 256
"""Most training rows, and most held-back rows, that one validation reads."""
FORWARD_TOKENS = 4096
"""Tokens of one unit of work without gradients, so that no single step of the engine takes long."""
DEFAULT_CONSTANTS = {"ridge": 0.3, "scale": 8.0}


class EncoderProgram(Program):
    """The work of one classification job on an encoder."""

    def __init__(
        self, job: TuningJob, subspace: Subspace, backbone: EncoderBackbone, checkpoint: bytes | None = None
    ) -> None:
        super().__init__(job, subspace, backbone.device, checkpoint)
        self.started = time.monotonic()
        self.labels = labels_of(job.examples)
        rng = np.random.default_rng([job.hyperparameters.seed, 3])
        self.train = _at_most(self.train, READOUT_ROWS, rng)
        self.held_back = _at_most(self.held_back, VALIDATION_ROWS, rng)
        examples = self.train + self.held_back
        self.token_ids = backbone.tokenize([example.input for example in examples], max_tokens=TUNING_TOKENS)
        index = {label: number for number, label in enumerate(self.labels)}
        self.classes = torch.tensor([index[example.output] for example in examples])
        self.train_rows = list(range(len(self.train)))
        self.held_rows = list(range(len(self.train), len(examples)))
        self.probe_rows = sorted(rng.permutation(len(self.train))[:VALIDATION_ROWS].tolist())
        self.rows_of_class: dict[int, list[int]] = defaultdict(list)
        for row in self.train_rows:
            self.rows_of_class[int(self.classes[row])].append(row)
        # Learned with the subspace.
        constants = subspace.manifest["training"].get("readout", DEFAULT_CONSTANTS)
        self.ridge, self.scale = float(constants["ridge"]), float(constants["scale"])
        self.frozen = torch.empty(0)

    def prepare(self) -> Steps:
        self.frozen = yield from self._embed(None, range(len(self.token_ids)))

    def validation_losses(self, vectors: Tensor) -> Generator[Work, Result, list[float]]:
        rows = self.probe_rows + self.held_rows
        losses = []
        for vector in vectors:
            features = yield from self._features(vector, rows)
            logits, classes = self._held_back_logits(features, self.classes[rows], len(self.probe_rows))
            losses.append(F.cross_entropy(logits, classes).item())
        return losses

    def descend_on(self, state: TuningState, learning_rate: float) -> Descend:
        lanes: list[int] = []
        rows: list[int] = []
        classes: list[int] = []
        for lane in range(state.lanes.vectors.shape[0]):
            for number, drawn in enumerate(self._draw(lane, state.lanes.step)):
                rows += drawn
                classes += [number] * len(drawn)
                lanes += [lane] * len(drawn)
        lane_sizes = [len(list(group)) for _, group in groupby(lanes)]
        frozen = torch.split(self.frozen[rows].to(self.device), lane_sizes)
        numbers = torch.split(torch.tensor(classes, device=self.device), lane_sizes)
        num_classes = min(len(self.rows_of_class), MAX_CLASSES_PER_STEP)

        def loss(prompted: Tensor) -> Tensor:
            per_lane = []
            for embedded, beside, wanted in zip(torch.split(prompted, lane_sizes), frozen, numbers, strict=True):
                kernel = gram(Embeddings(embedded, beside).features())
                scores = leave_one_out(kernel, class_targets(wanted, num_classes), self.ridge)
                per_lane.append(F.cross_entropy(self.scale * scores, wanted, label_smoothing=LABEL_SMOOTHING))
            return torch.stack(per_lane)

        return Descend(state.lanes, lanes, [self.token_ids[row] for row in rows], loss, learning_rate)

    def conclude(self, vector: Tensor) -> Generator[Work, Result, AdaptedTask]:
        rows = self.train_rows + self.held_rows
        tuned = yield from self._features(vector, rows)
        zero = yield from self._features(torch.zeros_like(vector), rows)
        readout = fit_readout(tuned, self.classes, len(self.labels))
        score, zero_score, baseline_score = self._score(tuned), self._score(zero), self._score(tuned, blend=0.0)
        metrics: dict[str, float | int | str | None] = {
            "score_metric": "accuracy",
            "score_source": "held_back" if self.held_rows else "leave_one_out",
            "score": score,
            "zero_vector_score": zero_score,
            "baseline_score": baseline_score,
            "baseline": "logistic regression on frozen embeddings",
            "held_back": len(self.held_rows),
            "steps_run": 0 if self.state is None else self.state.lanes.step,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        warnings = quality_warnings(score, zero_score, baseline_score, len(self.held_rows))
        final = vector.detach().cpu().numpy().astype(np.float32)
        return AdaptedTask(
            final, self.subspace.id, "classification", self.labels, readout.to_bytes(), metrics, warnings
        )

    def _held_back_logits(
        self, features: Tensor, classes: Tensor, train: int, blend: float = BLEND
    ) -> tuple[Tensor, Tensor]:
        """Logits of rows by a classifier that was not fitted on them, and their classes.

        The rows after the first `train` ones, by the readout fitted on those; where there are none, every row by the
        ridge classifier of the others.
        """
        if train < len(features):
            readout = fit_readout(features[:train], classes[:train], len(self.labels), blend)
            return readout.logits(features[train:]), classes[train:]
        targets = class_targets(classes, len(self.labels))
        of_both, of_frozen = (
            self.scale * leave_one_out(gram(part), targets, self.ridge) for part in (features, frozen_half(features))
        )
        return blend * of_both + (1.0 - blend) * of_frozen, classes

    def _score(self, features: Tensor, blend: float = BLEND) -> float:
        logits, classes = self._held_back_logits(features, self.classes, len(self.train_rows), blend)
        return (logits.argmax(dim=1) == classes).float().mean().item()

    def _features(self, vector: Tensor, rows: Sequence[int]) -> Generator[Work, Result, Tensor]:
        """[len(rows), 2H]: what the readout of `vector` [D] sees of the rows."""
        prompted = yield from self._embed(vector, rows)
        return Embeddings(prompted, self.frozen[list(rows)]).features()

    def _embed(self, vector: Tensor | None, rows: Sequence[int]) -> Generator[Work, Result, Tensor]:
        """[len(rows), H] on the CPU: rows behind the prompt of `vector` [D], or frozen, in bounded units of work."""
        lane = NO_PROMPT if vector is None else 0
        vectors = torch.empty(0, self.subspace.intrinsic_dim) if vector is None else vector[None]
        parts: list[Tensor] = []
        unit: list[int] = []
        tokens = 0
        for row in rows:
            length = self.subspace.prompt_length * (vector is not None) + len(self.token_ids[row])
            if unit and tokens + length > FORWARD_TOKENS:
                parts.append(self._taken((yield Forward(vectors, [lane] * len(unit), self._ids(unit)))))
                unit, tokens = [], 0
            unit.append(row)
            tokens += length
        parts.append(self._taken((yield Forward(vectors, [lane] * len(unit), self._ids(unit)))))
        return torch.cat(parts)

    def _ids(self, rows: Sequence[int]) -> list[list[int]]:
        return [self.token_ids[row] for row in rows]

    @staticmethod
    def _taken(result: Result) -> Tensor:
        assert isinstance(result, Tensor)
        return result.float().cpu()

    def _draw(self, lane: int, step: int) -> list[list[int]]:
        """Training rows of some classes for one lane's step, as many of each class as there are."""
        rng = self.rng(lane, step)
        num_classes = min(len(self.rows_of_class), MAX_CLASSES_PER_STEP)
        per_class = max(2, self.job.hyperparameters.batch_size // num_classes)
        chosen = rng.choice(len(self.rows_of_class), size=num_classes, replace=False)
        return [rng.permutation(self.rows_of_class[int(c)])[:per_class].tolist() for c in chosen]


def _at_most(examples: list[Example], limit: int, rng: np.random.Generator) -> list[Example]:
    """At most `limit` of the examples, in their order, taking from every label in turn."""
    if len(examples) <= limit:
        return examples
    taken: dict[str, int] = defaultdict(int)
    ranked = []
    for index in rng.permutation(len(examples)).tolist():
        label = examples[index].output
        ranked.append((taken[label], index))
        taken[label] += 1
    return [examples[index] for index in sorted(index for _, index in sorted(ranked)[:limit])]
