"""Tuning a classification task on an encoder.

The loss of a step is the leave-one-out error of a ridge classifier on its rows (`ipt.readout.ridge`), as in the fit of
a subspace. Each lane of a restart is tuned without one fold of the examples. A validation fits a readout
(`ipt.readout`) to the other folds and measures it on that fold. So all examples measure the vectors, the number of
steps and the weight of the prompt, each with a lane that was not tuned on it. The task's vector is the mean of the
lanes. With validation examples there is one lane, tuned on all examples and measured on those.

Letters: R restarts, F lanes of a restart, L = R · F lanes, M measured rows, C classes, D intrinsic dimension.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.labels import labels_in_scope
from ipt.prediction.task_head import TaskHead
from ipt.readout.blend import Blended, blend
from ipt.readout.cross_validation import CrossValidation
from ipt.readout.embeddings import with_names
from ipt.readout.label_errors import near_duplicates_across_labels, suspect_labels
from ipt.readout.linear_classifier import fit_linear, is_large
from ipt.readout.readout import Readout, fit_readout
from ipt.readout.scope import Scope, fit_scope
from ipt.subspace.subspace import Subspace
from ipt.tuning.checkpoint import TuningState
from ipt.tuning.encoder_rows import EncoderRows
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.job import AdaptedTask, Metrics, TuningJob
from ipt.tuning.label_scores import UNMEASURED, score_labels
from ipt.tuning.losses import RidgeLoss
from ipt.tuning.quality_warnings import pair_warnings, quality_warnings, suspect_warnings
from ipt.tuning.row_embeddings import ReadoutInputs, RowEmbeddings
from ipt.tuning.tuning_loop import TuningLoop
from ipt.tuning.work_units import GradientStep, Pause, Result, Work, WorkStream

START_FOLDS = 5
"""Folds of the cross-validation that compares initial vectors."""
FAMILY_PENALTY = 2.0
"""Gain in log-likelihood, in nats, above which tuning starts at another initial vector than the first. About log 7: the
first vector is as likely, before any data, as the seven others together."""
VALIDATION_INTERVAL = 10
"""Fewest steps between two validations."""
MOST_VALIDATIONS = 20
DEFAULT_CONSTANTS = {"ridge": 0.3, "scale": 8.0}


class EncoderLoop(TuningLoop):
    """The work of one classification job on an encoder."""

    has_scope = True

    def __init__(
        self, job: TuningJob, subspace: Subspace, backbone: EncoderBackbone, checkpoint: bytes | None = None
    ) -> None:
        super().__init__(job, subspace, backbone.device)
        self.started = time.monotonic()
        self.labels, self.rows = self._read_rows(job, backbone, subspace.prompt_length)
        self.lanes_per_restart = len(self.rows.splits)
        self.resume_from(checkpoint)
        prompt_positions = backbone.input_positions(subspace.prompt_length)
        self.embeddings = RowEmbeddings(self.rows.token_ids, self.rows.names, subspace, prompt_positions)
        # Learned with the subspace.
        constants = subspace.manifest["training"].get("readout", DEFAULT_CONSTANTS)
        self.ridge, self.scale = float(constants["ridge"]), float(constants["scale"])
        self.frozen_logits = torch.empty(0)
        """[M, C]: those of the classifiers on frozen embeddings, which no vector changes, once `prepare` has run."""

    def _read_rows(
        self, job: TuningJob, backbone: EncoderBackbone, prompt_length: int
    ) -> tuple[Sequence[str], EncoderRows]:
        """Return the labels, and the rows."""
        labels = labels_in_scope(job.examples)
        return labels, EncoderRows(job, labels, backbone, prompt_length)

    def prepare(self) -> WorkStream:
        yield from self.embeddings.embed_frozen()
        parts = []
        for split in self.rows.splits:
            yield from self._pause_before_large_fit(len(split.fitted))
            frozen, classes = self.embeddings.frozen[split.fitted], self.rows.classes[split.fitted]
            parts.append(fit_linear(frozen, classes, len(self.labels)).logits(self.embeddings.frozen[split.measured]))
        self.frozen_logits = torch.cat(parts)

    def start_losses(self) -> Generator[Work, Result, list[float]]:
        """Return the negative log evidence of each initial vector, from a sample of the examples."""
        rows = self.rows.first_look
        yield from self.embeddings.embed(self.initial_vectors, rows)
        groups = [self.rows.groups[row] for row in rows]
        cross_validation = CrossValidation(
            self.embeddings.frozen[rows], self.rows.classes[rows], len(self.labels), START_FOLDS, groups
        )
        losses = []
        for number, vector in enumerate(self.initial_vectors):
            inputs = yield from self.embeddings.readout_inputs(vector, rows)
            yield from self._pause_before_large_fit(len(rows))
            losses.append((FAMILY_PENALTY if number else 0.0) - cross_validation.prompted(*inputs))
        return losses

    def validation_interval(self) -> int:
        return max(VALIDATION_INTERVAL, -(-self.job.hyperparameters.steps // MOST_VALIDATIONS))

    def validation_losses(self, vectors: Tensor) -> Generator[Work, Result, list[float]]:
        assert self.state is not None
        self.embeddings.keep(torch.cat([self.state.starts, self.state.best_vectors]))
        yield from self.embeddings.embed(vectors, self.rows.validated)
        losses = []
        for lanes in torch.split(vectors, self.lanes_per_restart):
            measured = yield from self._measure(lanes)
            losses.append(measured.loss)
        return losses

    def next_gradient_step(self, state: TuningState, learning_rate: float) -> GradientStep:
        drawn = [
            self.rows.draw(
                lane % self.lanes_per_restart, self.rng(lane, state.lanes.step), self.job.hyperparameters.batch_size
            )
            for lane in range(state.lanes.vectors.shape[0])
        ]
        sizes = [len(rows) for rows, _ in drawn]
        rows, classes = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*drawn, strict=True))
        lanes = [lane for lane, size in enumerate(sizes) for _ in range(size)]
        frozen = self.embeddings.frozen[rows]
        loss = RidgeLoss(sizes, frozen, classes, self.rows.classes_per_step, self.ridge, self.scale)
        inputs = [self.rows.token_ids[row] for row in rows.tolist()]
        return GradientStep(state.lanes, lanes, inputs, loss, learning_rate)

    def conclude(self, vectors: Tensor, start: Tensor) -> Generator[Work, Result, AdaptedTask]:
        assert self.state is not None
        tuned = yield from self._measure(vectors)
        untuned = yield from self._measure(start.expand_as(vectors))
        vector = start + (vectors - start).mean(dim=0)  # exactly the start if no lane left it
        inputs = yield from self.embeddings.readout_inputs(vector, self.rows.known)
        yield from self._pause_before_large_fit(len(self.rows.known))
        readout = self._fit_readout(inputs, tuned)
        scope = (yield from self._fit_scope(vector, inputs)) if self.has_scope else None
        metrics, warnings = self._scores(tuned, untuned)
        metrics |= {
            "prompt_weight": round(tuned.weight, 3),
            "loss": tuned.loss,
            "steps_run": self.state.lanes.step,
            "best_step": self.state.best_step,
            "truncated": self.rows.truncated,
            "unknown_tokens": round(self.rows.unknown_tokens, 4),
            "seconds": round(time.monotonic() - self.started, 3),
        }
        final = vector.detach().cpu().numpy().astype(np.float32)
        scope_bytes = None if scope is None else scope.to_bytes()
        head = TaskHead(final, self.subspace.id, self.job.kind, tuple(self.labels), readout.to_bytes(), scope_bytes)
        held_out = None
        pairs = self._near_duplicates()
        if self.rows.score_source != "none":
            number = self.rows.dataset_rows
            numbered = [(number[first], number[second]) for first, second in pairs]
            held_out = HeldOutLogits.of([number[row] for row in self.rows.measured], tuned.logits, numbered)
        return AdaptedTask(head, metrics, [*self._label_warnings(held_out, pairs), *warnings], held_out)

    def _fit_readout(self, inputs: ReadoutInputs, tuned: Blended) -> Readout:
        return fit_readout(inputs.examples, self.rows.classes, len(self.labels), tuned.weight, inputs.names)

    def _fit_scope(self, vector: Tensor, inputs: ReadoutInputs) -> Generator[Work, Result, Scope | None]:
        groups = [self.rows.groups[row] for row in self.rows.known]
        outside = None
        if self.rows.outside:
            outside = (yield from self.embeddings.readout_inputs(vector, self.rows.outside)).examples
        yield from self._pause_before_large_fit(len(self.rows.known))
        return fit_scope(inputs.examples, self.rows.classes, len(self.labels), groups, outside)

    def _near_duplicates(self) -> list[tuple[int, int]]:
        """Return pairs of examples with different labels that hardly differ for the backbone."""
        tokens = self.rows.token_ids
        known = self.embeddings.frozen[: len(self.rows.known)]
        pairs = near_duplicates_across_labels(known.numpy(), self._answer_numbers())
        # The warnings about the dataset name texts that are equal for the backbone.
        return [(first, second) for first, second in pairs if tokens[first] != tokens[second]]

    def _label_warnings(self, held_out: HeldOutLogits | None, pairs: Sequence[tuple[int, int]]) -> list[str]:
        """Return warnings about examples whose labels are probably wrong."""
        count = len(self.job.examples)
        places = [
            f"examples[{row}]" if row < count else f"validation_examples[{row - count}]"
            for row in self.rows.dataset_rows
        ]
        warnings = []
        if held_out is not None:
            warnings = self._suspect_warnings(held_out, places)
        return [*warnings, *pair_warnings(pairs, places)]

    def _suspect_warnings(self, held_out: HeldOutLogits, places: Sequence[str]) -> list[str]:
        suspects = suspect_labels(held_out.logits, self._measured_classes.tolist())
        return suspect_warnings(suspects, [places[row] for row in self.rows.measured], self.labels)

    def _answer_numbers(self) -> list[int]:
        """Return for each example and validation example a number that the examples with the same answer share."""
        numbers: list[int] = self.rows.classes.tolist()
        return numbers

    def _scores(self, tuned: Blended, untuned: Blended) -> tuple[Metrics, list[str]]:
        """Return the scores of the measured rows, and warnings about them."""
        metrics: Metrics = {"score_metric": "accuracy", "baseline": "logistic regression on frozen embeddings"}
        unknown = self.rows.unknown_tokens
        if self.rows.score_source == "none":
            return metrics | UNMEASURED, quality_warnings(None, None, None, 0, unknown_tokens=unknown)
        classes, rows = self._measured_classes, self.rows.measured
        baseline_score = (self.frozen_logits.argmax(dim=1) == classes).double().mean().item()
        groups = [self.rows.groups[row] for row in rows]
        scores = score_labels(tuned.logits.argmax(dim=1).tolist(), classes.tolist(), self.labels, groups)
        start_score = untuned.accuracy(classes)
        metrics |= {
            "score_source": self.rows.score_source,
            "score": scores.accuracy,
            "start_score": start_score,
            "baseline_score": baseline_score,
            "held_back": len(rows),
        }
        warnings = quality_warnings(
            scores.accuracy, start_score, baseline_score, len(rows), scores, unknown_tokens=unknown
        )
        return metrics | scores.metrics(), warnings

    def _measure(self, vectors: Tensor) -> Generator[Work, Result, Blended]:
        """Return what the readouts of a restart's lanes at `vectors` [F, D] say of the rows they leave out."""
        parts = []
        for split, vector in zip(self.rows.splits, vectors, strict=True):
            fitted, names = yield from self.embeddings.readout_inputs(vector, split.fitted)
            measured, _ = yield from self.embeddings.readout_inputs(vector, split.measured)
            yield from self._pause_before_large_fit(len(split.fitted))
            examples = with_names(fitted.features(), self.rows.classes[split.fitted], names)
            parts.append(fit_linear(*examples, len(self.labels)).logits(measured.features()))
        return blend(torch.cat(parts), self.frozen_logits, self._measured_classes)

    @property
    def _measured_classes(self) -> Tensor:
        return self.rows.classes[self.rows.measured]

    def _pause_before_large_fit(self, rows: int) -> WorkStream:
        """Request a turn if a fit to this many rows and the label names is large; a step runs one large fit."""
        if is_large(rows + len(self.rows.names), len(self.labels)):
            yield Pause()
