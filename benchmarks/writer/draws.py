"""Draws whose measurements also have token F1, ROUGE-L and what an answer costs in tokens read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from ipt.backbones.interface import TextBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.measurements import Detail, Measurement
from ipt.evaluation.protocol import Draw, Setup
from ipt.tuning.text_scores import mean_scores

TOKENS_READ = "tokens_read"
"""Mean number of positions that a row takes before its answer: prompt or examples, and input."""

NUMBERS = "numbers"
"""How many numbers a method tunes for a task."""


class TextDraw(Draw):
    """A draw of a task for a backbone that writes."""

    def __init__(self, task: TaskDataset, seed: int, setup: Setup) -> None:
        super().__init__(task, seed, setup)
        self.input_tokens = fmean(map(len, writer_of(setup).tokenize(self.texts)))
        self._prompt_positions = setup.backbone.input_positions(setup.subspace.prompt_length)

    def measurement(self, method: str, answers: Sequence[str | None], seconds: float, detail: Detail) -> Measurement:
        detail = {TOKENS_READ: self.input_tokens + self._prompt_positions} | detail
        measured = super().measurement(method, answers, seconds, detail)
        scores = mean_scores([answer or "" for answer in answers], [row.output for row in self.test])
        return replace(measured, detail=measured.detail | scores)


def writer_of(setup: Setup) -> TextBackbone:
    """Return the backbone of a setup, which writes."""
    assert isinstance(setup.backbone, TextBackbone)
    return setup.backbone
