"""Tuning a classification task on an encoder.

The loss of a step is the leave-one-out error of a ridge classifier on its rows (`ipt.readout.ridge`), as in the fit of
a subspace. Validation fits the readout (`ipt.readout`) to the training examples and measures it on the held-back ones.

Letters: L lanes, N examples, C classes, D intrinsic dimension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import labels_of
from ipt.prediction.task_head import TaskHead
from ipt.readout.cross_validation import CrossValidation
from ipt.readout.embeddings import Embeddings, with_names
from ipt.readout.linear_classifier import LinearClassifier, fit_linear, is_large
from ipt.readout.readout import fit_readout
from ipt.readout.ridge import class_targets, gram, leave_one_out
from ipt.subspace.subspace import Subspace
from ipt.tuning.checkpoint import TuningState
from ipt.tuning.encoder_rows import EncoderRows
from ipt.tuning.job import AdaptedTask, TuningJob
from ipt.tuning.losses import RidgeLoss
from ipt.tuning.quality_warnings import quality_warnings
from ipt.tuning.row_embeddings import ReadoutInputs, RowEmbeddings
from ipt.tuning.tuning_loop import TuningLoop
from ipt.tuning.work_units import GradientStep, Pause, Result, Work, WorkStream

FOLDS = 5
"""Folds of a cross-validation."""
PROMPT_PENALTY = 1.0
"""Gain in log-likelihood, in nats, at which the readout weights the classifiers with and without a prompt equally."""
FAMILY_PENALTY = 2.0
"""Gain in log-likelihood, in nats, above which tuning starts at another initial vector than the first. About log 7: the
first vector is as likely, before any data, as the seven others together."""
RUNNERS_UP = 2
"""Initial vectors, besides the first, that are compared on all examples."""
DEFAULT_CONSTANTS = {"ridge": 0.3, "scale": 8.0}


class EncoderLoop(TuningLoop):
    """The work of one classification job on an encoder."""

    patience = 1  # if the first steps gain nothing, later ones rarely do: docs/decisions/0033

    def __init__(
        self, job: TuningJob, subspace: Subspace, backbone: EncoderBackbone, checkpoint: bytes | None = None
    ) -> None:
        super().__init__(job, subspace, backbone.device, checkpoint)
        self.started = time.monotonic()
        self.labels = labels_of(job.examples)
        self.rows = EncoderRows(self.train, self.held_back, self.labels, backbone, job.hyperparameters.seed)
        prompt_positions = backbone.input_positions(subspace.prompt_length)
        self.embeddings = RowEmbeddings(self.rows.token_ids, self.rows.names, subspace, prompt_positions)
        # Learned with the subspace.
        constants = subspace.manifest["training"].get("readout", DEFAULT_CONSTANTS)
        self.ridge, self.scale = float(constants["ridge"]), float(constants["scale"])
        self.baseline: LinearClassifier | None = None
        """Fitted to the frozen embeddings of the probe rows, once, because no vector changes them."""
        self.blend = 0.5
        """Weight of the classifier on prompted embeddings in the readout, see `_compare_starts`."""
        self.evidence: list[float] = []
        self.measured_rows = len(self.rows.held_back) or len(self.rows.probe)

    def prepare(self) -> WorkStream:
        yield from self.embeddings.embed_frozen()
        if self.rows.held_back:
            self.baseline = yield from self._fit_baseline(self.rows.probe)
        yield from self._compare_starts()

    def validation_losses(self, vectors: Tensor) -> Generator[Work, Result, list[float]]:
        rows = self.rows.validation
        losses = []
        for vector in vectors:
            inputs = yield from self.embeddings.readout_inputs(vector, rows)
            logits, classes = yield from self._unseen_logits(
                inputs, self.rows.classes[rows], len(self.rows.probe), self.baseline
            )
            losses.append(F.cross_entropy(logits, classes).item())
        return losses

    def start_losses(self) -> Generator[Work, Result, list[float]]:
        yield from ()
        return [-evidence for evidence in self.evidence]

    def _compare_starts(self) -> WorkStream:
        """Compute the log evidence of every initial vector, and from it the weight of the prompted embeddings.

        All rows take part, because a few are too few and because no vector has been tuned on any of them yet.
        Cross-validation over the rows that a vector was tuned on would always favour the prompt.
        """
        rows = self.rows.validation
        compared = yield from self._promising_starts(len(rows))
        cross_validation = self._cross_validation(rows)
        yield from self.embeddings.embed(self.initial_vectors[compared], rows)
        self.evidence = [-math.inf] * len(self.initial_vectors)
        for number in compared:
            inputs = yield from self.embeddings.readout_inputs(self.initial_vectors[number], rows)
            yield from self._pause_before_large_fit(len(rows))
            self.evidence[number] = cross_validation.prompted(*inputs) - (FAMILY_PENALTY if number else 0.0)
        yield from self._pause_before_large_fit(len(rows))
        odds = max(self.evidence) - cross_validation.baseline - PROMPT_PENALTY
        self.blend = torch.tensor(odds, dtype=torch.float64).sigmoid().item()

    def _promising_starts(self, all_rows: int) -> Generator[Work, Result, list[int]]:
        """Return the initial vectors to compare on all rows: the first, and the best others on a sample of the rows."""
        count = len(self.initial_vectors)
        runners_up = max(RUNNERS_UP, self.job.hyperparameters.restarts - 1)
        rows = self.rows.first_look
        if 1 + runners_up >= count or len(rows) == all_rows:
            return list(range(count))
        yield from self.embeddings.embed(self.initial_vectors, rows)
        cross_validation = self._cross_validation(rows)
        evidence = []
        for vector in self.initial_vectors[1:]:
            inputs = yield from self.embeddings.readout_inputs(vector, rows)
            yield from self._pause_before_large_fit(len(rows))
            evidence.append(cross_validation.prompted(*inputs))
        order = np.argsort(-np.asarray(evidence), kind="stable")[:runners_up]
        return [0, *sorted(1 + int(place) for place in order)]

    def _cross_validation(self, rows: Sequence[int]) -> CrossValidation:
        frozen, classes = self.embeddings.frozen[list(rows)], self.rows.classes[list(rows)]
        return CrossValidation(frozen, classes, len(self.labels), FOLDS)

    def next_gradient_step(self, state: TuningState, learning_rate: float) -> GradientStep:
        drawn = [
            self.rows.draw(self.rng(lane, state.lanes.step), self.job.hyperparameters.batch_size)
            for lane in range(state.lanes.vectors.shape[0])
        ]
        sizes = [len(rows) for rows, _ in drawn]
        rows, classes = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*drawn, strict=True))
        lanes = [lane for lane, size in enumerate(sizes) for _ in range(size)]
        frozen = self.embeddings.frozen[rows]
        loss = RidgeLoss(sizes, frozen, classes, self.rows.classes_per_step, self.ridge, self.scale)
        inputs = [self.rows.token_ids[row] for row in rows.tolist()]
        return GradientStep(state.lanes, lanes, inputs, loss, learning_rate)

    def conclude(self, vector: Tensor) -> Generator[Work, Result, AdaptedTask]:
        rows = self.rows.train + self.rows.held_back
        tuned = yield from self.embeddings.readout_inputs(vector, rows)
        zero = yield from self.embeddings.readout_inputs(torch.zeros_like(vector), rows)
        yield from self._pause_before_large_fit(len(rows))
        readout = fit_readout(tuned.examples, self.rows.classes, len(self.labels), self.blend, tuned.names)
        score, zero_score, baseline_score = yield from self._scores(tuned, zero)
        held_back = len(self.rows.held_back)
        metrics: dict[str, float | int | str | None] = {
            "score_metric": "accuracy",
            "score_source": "held_back" if held_back else "leave_one_out",
            "score": score,
            "zero_vector_score": zero_score,
            "baseline_score": baseline_score,
            "prompt_weight": round(self.blend, 3),
            "baseline": f"{'logistic regression' if held_back else 'ridge classifier'} on frozen embeddings",
            "held_back": held_back,
            "steps_run": 0 if self.state is None else self.state.lanes.step,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        warnings = quality_warnings(score, zero_score, baseline_score, held_back)
        final = vector.detach().cpu().numpy().astype(np.float32)
        head = TaskHead(final, self.subspace.id, "classification", self.labels, readout.to_bytes())
        return AdaptedTask(head, metrics, warnings)

    def _scores(self, tuned: ReadoutInputs, zero: ReadoutInputs) -> Generator[Work, Result, tuple[float, float, float]]:
        """Return the accuracy of the tuned vector, the zero vector and the baseline on rows they were not fitted to."""
        train = len(self.rows.train)
        frozen, classes = self.embeddings.frozen, self.rows.classes
        baseline = self.baseline
        if self.rows.held_back:
            if baseline is None or train > len(self.rows.probe):
                baseline = yield from self._fit_baseline(self.rows.train)
            baseline_logits, measured_classes = baseline.logits(frozen[self.rows.held_back]), classes[train:]
        else:
            baseline_logits = yield from self._leave_one_out_logits(frozen[self.rows.train], classes)
            measured_classes = classes
        vector_logits = []
        for inputs in (tuned, zero):
            logits, _ = yield from self._unseen_logits(inputs, classes, train, baseline)
            vector_logits.append(logits)
        score, zero_score, baseline_score = (
            (logits.argmax(dim=1) == measured_classes).float().mean().item()
            for logits in (*vector_logits, baseline_logits)
        )
        return score, zero_score, baseline_score

    def _unseen_logits(
        self, inputs: ReadoutInputs, classes: Tensor, train: int, baseline: LinearClassifier | None
    ) -> Generator[Work, Result, tuple[Tensor, Tensor]]:
        """Return logits of rows by a classifier that was not fitted to them, and their classes.

        If there are rows after the first `train` ones, the readout is fitted to those first rows (`baseline` is its
        frozen part) and applied to the others. If not, every row gets the leave-one-out prediction of the same blend of
        ridge classifiers.
        """
        examples, names = inputs
        if train < len(examples):
            yield from self._pause_before_large_fit(train)
            fitted, unseen = examples.rows(slice(train)), examples.rows(slice(train, None))
            readout = fit_readout(fitted, classes[:train], len(self.labels), self.blend, names, baseline)
            return readout.logits(unseen), classes[train:]
        on_both = yield from self._leave_one_out_logits(examples.features(), classes, names)
        on_frozen = yield from self._leave_one_out_logits(examples.frozen, classes)
        return self.blend * on_both + (1.0 - self.blend) * on_frozen, classes

    def _leave_one_out_logits(
        self, features: Tensor, classes: Tensor, names: Embeddings | None = None
    ) -> Generator[Work, Result, Tensor]:
        yield from self._pause_before_large_fit(len(features))
        fitted, classes = with_names(features, classes, names)
        targets = class_targets(classes, len(self.labels))
        return self.scale * leave_one_out(gram(fitted), targets, self.ridge)[: len(features)]

    def _fit_baseline(self, rows: Sequence[int]) -> Generator[Work, Result, LinearClassifier]:
        yield from self._pause_before_large_fit(len(rows))
        return fit_linear(self.embeddings.frozen[list(rows)], self.rows.classes[list(rows)], len(self.labels))

    def _pause_before_large_fit(self, rows: int) -> WorkStream:
        """Request a turn if a fit to this many rows and the label names is large; a step runs one large fit."""
        if is_large(rows + len(self.rows.names), len(self.labels)):
            yield Pause()
