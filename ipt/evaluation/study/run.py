"""Run a study of subspaces: fit several dimensions, measure them on seen and unseen tasks, and compare.

Fits write checkpoints, and every measurement is written as soon as it is made. A study that was killed resumes where it
stopped, and ends with the same findings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ipt.backbones.interface import Backbone
from ipt.data.task_dataset import TaskDataset
from ipt.errors import CheckpointError, DatasetError
from ipt.evaluation.measured_tasks import measurable_tasks, no_measurable_task, without_fitted_rows
from ipt.evaluation.study.ablations import Ablations
from ipt.evaluation.study.findings import Findings, SkippedPartError
from ipt.evaluation.study.fits import OnProgress, StudyFits
from ipt.evaluation.study.measuring import StudyMeasurer
from ipt.evaluation.study.options import StudyOptions
from ipt.evaluation.study.task_selection import spread_over_families
from ipt.fitting.fit_rows import fault_of_task
from ipt.subspace.subspace import Subspace

OnPart = Callable[[Findings], None]
"""Called whenever there is more to report."""


class Study:
    """One study in one folder.

    Args:
        backbone: the frozen model.
        seen, unseen: the tasks that subspaces are found from, and other tasks.
        finished: finished subspaces, each used for its dimension instead of a fit.
        folder: keeps subspaces and measurements.
        options: what is fitted and measured.
        on_progress: called often.
        measuring: False: fit and measure nothing; the findings are what the folder has.
        origin: additional entries for the manifests of the subspaces.
    """

    def __init__(
        self,
        backbone: Backbone,
        seen: Sequence[TaskDataset],
        unseen: Sequence[TaskDataset],
        finished: Sequence[Subspace],
        folder: Path,
        options: StudyOptions,
        on_progress: OnProgress,
        measuring: bool = True,
        origin: Mapping[str, object] | None = None,
    ) -> None:
        self.backbone = backbone
        self.unseen = unseen
        self.folder = folder
        self.options = options
        self.findings = Findings()
        self.fits = StudyFits(backbone, seen, on_progress, only_finished=not measuring, origin=origin or {})
        self._finished = {subspace.intrinsic_dim: subspace for subspace in finished}
        self._measurer = StudyMeasurer(
            backbone,
            folder / "measurements.jsonl",
            self.findings.subspaces.values(),
            options.evaluation,
            on_progress,
            only_kept=not measuring,
        )

    def run(self, on_part: OnPart) -> Findings:
        """Do everything that is not done yet.

        Raises:
            CheckpointError: the folder has a fit with other options, or, if nothing is to be fitted, no subspace.
            DatasetError: no task is left to fit on or to measure on.
        """
        self.fits.seen = self._learnable(self.fits.seen)
        self._find_subspaces()
        seen = self._tasks_to_measure(self.fits.seen, self.options.seen_tasks)
        unseen = self._tasks_to_measure(self.unseen, self.options.unseen_tasks)
        self._measure_dimensions(seen, unseen, on_part)
        self._measure_curve(unseen)
        on_part(self.findings)
        self._run_ablations(unseen, on_part)
        return self.findings

    def _find_subspaces(self) -> None:
        findings = self.findings
        for dim in self.options.dimensions:
            try:
                findings.subspaces[dim] = self._finished.get(dim) or self.fits.direct(
                    self.folder / f"dimension-{dim}", replace(self.options.fit, intrinsic_dim=dim)
                )
            except SkippedPartError as error:
                findings.leave_out(error.message)
        if not findings.subspaces:
            raise CheckpointError(f"{findings.left_out[-1]}: let the study run until it has one")

    def _measure_dimensions(self, seen: Sequence[TaskDataset], unseen: Sequence[TaskDataset], on_part: OnPart) -> None:
        findings = self.findings
        # The largest dimension is the reference: methods that do not use the subspace are measured with it.
        for dim in sorted(findings.subspaces, reverse=True):
            for split, tasks in (("unseen", unseen), ("seen", seen)):
                what = f"{split} tasks, dimension {dim}"
                measured = findings.splits[split][dim] = []
                for methods, seeds in self.options.method_groups():
                    self._measurer.measure(what, findings.subspaces[dim], tasks, methods, seeds, into=measured)
                    on_part(findings)

    def _measure_curve(self, unseen: Sequence[TaskDataset]) -> None:
        options, findings = self.options, self.findings
        if not options.curve:
            return
        try:
            tasks = self._measurable(unseen, max(options.curve))
        except DatasetError as error:
            findings.leave_out(f"the curve over examples per label: {error.message}")
            return
        methods = ["logistic regression", "IST"]
        for per_label in options.curve:
            if per_label == 1 and self.backbone.family != "encoder":
                continue  # there is nothing to tune by, and no untuned readout
            evaluation = replace(options.evaluation, per_label=per_label)
            measured = findings.curve[per_label] = []
            self._measurer.measure(
                f"{per_label} examples per label",
                findings.reference,
                tasks,
                methods,
                options.seeds_of_slow,
                evaluation,
                measured,
            )

    def _run_ablations(self, unseen: Sequence[TaskDataset], on_part: OnPart) -> None:
        findings = self.findings
        ablations = Ablations(
            self.backbone,
            findings.reference,
            unseen,
            self.fits,
            self._measurer,
            self.options,
            self.folder / "ablations",
        )
        for name in self.options.ablations:
            try:
                findings.ablations[name] = ablations.run(name)
            except SkippedPartError as error:
                findings.leave_out(f"the ablation {name!r}: {error.message}")
            on_part(findings)

    def _learnable(self, tasks: Sequence[TaskDataset]) -> list[TaskDataset]:
        """Return the tasks that subspaces can be found from, and note why each other task is left out."""
        faults = [fault_of_task(self.backbone, task, self.options.fit.examples_per_label) for task in tasks]
        self.findings.leave_out(*(fault for fault in faults if fault is not None))
        learnable = [task for task, fault in zip(tasks, faults, strict=True) if fault is None]
        if not learnable:
            raise DatasetError(f"no subspace can be found from the seen tasks; {self.findings.left_out[-1]}")
        return learnable

    def _tasks_to_measure(self, tasks: Sequence[TaskDataset], limit: int | None) -> list[TaskDataset]:
        unfitted, notes = without_fitted_rows(tasks, list(self.findings.subspaces.values()))
        self.findings.leave_out(*notes)
        return spread_over_families(self._measurable(unfitted, self.options.evaluation.per_label), limit)

    def _measurable(self, tasks: Sequence[TaskDataset], per_label: int) -> list[TaskDataset]:
        measurable, faults = measurable_tasks(tasks, per_label, self.backbone.family)
        self.findings.leave_out(*faults)
        if not measurable:
            raise no_measurable_task(per_label, faults)
        return measurable
