"""Measure subspaces within a study, and write every measurement to the study's folder as soon as it is made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipt.backbones.interface import Backbone
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.evaluation import Evaluation, measure_missing
from ipt.evaluation.measurement_file import MeasurementFile
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.protocol import EvaluationOptions
from ipt.evaluation.study.fits import OnProgress
from ipt.subspace.subspace import Subspace


@dataclass(frozen=True)
class StudyMeasurer:
    """Measures subspaces on tasks.

    Args:
        backbone: the frozen model.
        path: the file of measurements.
        subspaces: the study's subspaces. Methods that use none are measured once for all subspaces with the same length
            and placement of prompts.
        options: unless `measure` gets others.
        on_progress: called often.
        only_kept: measure nothing, and return the measurements in the file.
    """

    backbone: Backbone
    path: Path
    subspaces: Collection[Subspace]
    options: EvaluationOptions
    on_progress: OnProgress
    only_kept: bool

    def measure(
        self,
        what: str,
        subspace: Subspace,
        tasks: Sequence[TaskDataset],
        methods: Sequence[str],
        seeds: Sequence[int],
        options: EvaluationOptions | None = None,
        into: list[Measurement] | None = None,
        backbone: Backbone | None = None,
    ) -> list[Measurement]:
        """Return the measurements. With `into`, each is appended to that list as soon as it is made."""
        evaluation = Evaluation(backbone or self.backbone, subspace, options or self.options)
        same_prompts = [each.id for each in self.subspaces if _prompt_shape(each) == _prompt_shape(subspace)]
        file = MeasurementFile(self.path, evaluation.identity, same_prompts)
        measured = [] if into is None else into

        def on_pair(done: int, total: int, task: str) -> None:
            self.on_progress(f"measuring {what}", done, total, f", {task}" if task else "")

        for measurement in measure_missing(evaluation, file, tasks, seeds, methods, on_pair, only_kept=self.only_kept):
            measured.append(measurement)
        return measured


def _prompt_shape(subspace: Subspace) -> tuple[int, str]:
    """Return what prompt tuning on the subspace's backbone takes from the subspace: prompt length and placement."""
    return subspace.prompt_length, subspace.manifest["prompt_placement"]
