"""Tuning a multi-label task on an encoder: as classification, with a classifier, a score and a threshold per label.

Letters: M measured rows, C labels, F lanes of a restart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import labels_in_sets
from ipt.data.near_duplicates import near_duplicate_groups
from ipt.readout.blend import Blended
from ipt.readout.label_errors import suspect_label_sets
from ipt.readout.readout import SHARPNESS, Readout
from ipt.readout.thresholds import choose_thresholds, cross_fitted_thresholds
from ipt.tuning.encoder_loop import EncoderLoop
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.job import Metrics, TuningJob
from ipt.tuning.label_scores import UNMEASURED
from ipt.tuning.label_set_scores import LabelSetScores, score_label_sets
from ipt.tuning.multilabel_rows import MultiLabelRows
from ipt.tuning.quality_warnings import label_set_suspect_warnings, quality_warnings
from ipt.tuning.row_embeddings import ReadoutInputs


class MultiLabelLoop(EncoderLoop):
    """The work of one multi-label job."""

    has_scope = False
    """A text without a label is an answer, so no score says whether it belongs to any."""

    def _read_rows(
        self, job: TuningJob, backbone: EncoderBackbone, prompt_length: int
    ) -> tuple[Sequence[str], MultiLabelRows]:
        labels = labels_in_sets(job.examples)
        return labels, MultiLabelRows(job, labels, backbone, prompt_length)

    def _fit_readout(self, inputs: ReadoutInputs, tuned: Blended) -> Readout:
        readout = super()._fit_readout(inputs, tuned)
        if self.rows.score_source == "none":
            return readout.with_thresholds(torch.zeros(len(self.labels)))
        return readout.with_thresholds(choose_thresholds(tuned.logits, self._measured_classes))

    def _suspect_warnings(self, held_out: HeldOutLogits, places: Sequence[str]) -> list[str]:
        suspects = suspect_label_sets(held_out.logits, self._measured_classes.numpy())
        return label_set_suspect_warnings(suspects, [places[row] for row in self.rows.measured], self.labels)

    def _answer_numbers(self) -> list[int]:
        numbers: list[int] = torch.unique(self.rows.classes, dim=0, return_inverse=True)[1].tolist()
        return numbers

    def _scores(self, tuned: Blended, untuned: Blended) -> tuple[Metrics, list[str]]:
        metrics: Metrics = {"score_metric": "micro_f1", "baseline": "logistic regression on frozen embeddings"}
        if self.rows.score_source == "none":
            return metrics | UNMEASURED, quality_warnings(None, None, None, 0, unknown_tokens=self.rows.unknown_tokens)
        scores, start, baseline = map(self._scored, (tuned.logits, untuned.logits, SHARPNESS * self.frozen_logits))
        metrics |= {
            "score_source": self.rows.score_source,
            "score": scores.micro_f1,
            "start_score": start.micro_f1,
            "baseline_score": baseline.micro_f1,
            "held_back": len(self.rows.measured),
        }
        warnings = quality_warnings(
            scores.micro_f1,
            start.micro_f1,
            baseline.micro_f1,
            len(self.rows.measured),
            scores,
            measure="micro F1",
            unknown_tokens=self.rows.unknown_tokens,
        )
        return metrics | scores.metrics(), warnings

    def _scored(self, logits: Tensor) -> LabelSetScores:
        """Score logits [M, C] with thresholds that were chosen on other rows."""
        dataset = [*self.job.examples, *(self.job.validation_examples or [])]
        groups = near_duplicate_groups([dataset[self.rows.dataset_rows[row]] for row in self.rows.measured])
        classes = self._measured_classes
        # As they are stored, so that a report of the version counts the same.
        logits = logits.float().double()
        answered = logits >= cross_fitted_thresholds(logits, classes, groups)
        return score_label_sets(answered.numpy(), classes.numpy(), self.labels, groups)
