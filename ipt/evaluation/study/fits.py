"""The subspaces of a study: each is fitted once, in a folder of its own, and loaded from there afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from ipt.backbones.interface import Backbone
from ipt.data.task_dataset import TaskDataset
from ipt.errors import CheckpointError
from ipt.evaluation.measured_tasks import was_found_from
from ipt.evaluation.study.findings import SkippedPartError
from ipt.fitting.autoencoder_fit import AutoencoderFit, AutoencoderOptions
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.fit_rows import RowOptions, rows_of_fit
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.fitting.resumable_fit import ResumableFit, is_finished
from ipt.fitting.task_losses import TaskLosses
from ipt.fitting.tune_prompts import PromptOptions, tune_prompts
from ipt.subspace.soft_prompt_files import read_prompts
from ipt.subspace.store import load_subspace
from ipt.subspace.subspace import Subspace

OnProgress = Callable[[str, int, int, str], None]
"""Called with what is being done, how much of it is done, how much there is, and details."""


class StudyFits:
    """Fits subspaces from the seen tasks.

    Args:
        backbone: the frozen model.
        seen: the tasks that subspaces are found from.
        on_progress: called often.
        only_finished: load finished subspaces only, and fit none.
        origin: additional entries for the manifests.
    """

    def __init__(
        self,
        backbone: Backbone,
        seen: Sequence[TaskDataset],
        on_progress: OnProgress,
        *,
        only_finished: bool,
        origin: Mapping[str, object],
    ) -> None:
        self.backbone = backbone
        self.seen = seen
        self.prepared: TaskLosses | None = None
        """All seen tasks, tokenized and embedded; None before the first fit."""
        self._on_progress = on_progress
        self._only_finished = only_finished
        self._origin = origin

    def direct(
        self,
        folder: Path,
        options: FitOptions,
        tasks: Sequence[TaskDataset] | None = None,
        backbone: Backbone | None = None,
    ) -> Subspace:
        """Return the subspace of a direct fit.

        Args:
            folder: keeps the subspace, and the checkpoint of an unfinished fit.
            options: of the fit.
            tasks: None: all seen tasks.
            backbone: the same model with another prompt placement; None: the study's.

        Raises:
            CheckpointError: the folder has a subspace of other tasks, rows or options.
            SkippedPartError: the folder has no finished subspace, and none is to be fitted.
        """
        tasks = self.seen if tasks is None else tasks
        return self._fit(
            folder, options, tasks, lambda: DirectFit(self._losses(tasks, options, backbone), options), backbone
        )

    def from_tuned_prompts(self, folder: Path, like: FitOptions) -> Subspace:
        """Return the subspace of an auto-encoder over tuned prompts, with rows, sizes and steps as in a direct fit.

        Raises:
            CheckpointError, SkippedPartError: as `direct` does.
        """
        row_options = {each.name: getattr(like, each.name) for each in fields(RowOptions)}
        options = AutoencoderOptions(**row_options, intrinsic_dim=like.intrinsic_dim, steps=like.steps)

        def begin() -> ResumableFit:
            path = folder / "prompts.safetensors"
            tune_prompts(
                self.backbone,
                self.seen,
                path,
                PromptOptions(prompt_length=like.prompt_length),
                on_step=lambda done, total, _: self._on_progress("tuning prompts", done, total, ""),
            )
            return AutoencoderFit(self._losses(self.seen, options), read_prompts(path, self.backbone), options)

        return self._fit(folder, options, self.seen, begin)

    def _fit(
        self,
        folder: Path,
        options: RowOptions,
        tasks: Sequence[TaskDataset],
        begin: Callable[[], ResumableFit],
        backbone: Backbone | None = None,
    ) -> Subspace:
        backbone = backbone or self.backbone
        if is_finished(folder):
            subspace = load_subspace(folder, backbone)
            if not _was_fitted_with(subspace, options, tasks, backbone):
                raise CheckpointError(
                    f"{folder} has a subspace that was found with other tasks, rows or options: remove it, or choose "
                    "another folder for the study"
                )
            return subspace
        if self._only_finished:
            raise SkippedPartError(f"{folder} has no finished subspace to report on")
        fit = begin()
        fit.origin = self._origin
        return fit.run_in(
            folder,
            lambda step, _: self._on_progress(
                f"fitting {folder.name}", step.step, step.steps, f", loss {step.loss:.3g}"
            ),
        )

    def _losses(
        self, tasks: Sequence[TaskDataset], options: RowOptions, backbone: Backbone | None = None
    ) -> TaskLosses:
        """Prepare tasks for a fit. All seen tasks take minutes, so they are prepared once for all fits."""
        if tasks is not self.seen:
            return prepare_tasks(backbone or self.backbone, tasks, options)
        if self.prepared is None:
            self.prepared = prepare_tasks(
                self.backbone, tasks, options, lambda done, total: self._on_progress("reading tasks", done, total, "")
            )
        return self.prepared.for_another_fit(options, backbone)


def _was_fitted_with(subspace: Subspace, options: RowOptions, tasks: Sequence[TaskDataset], backbone: Backbone) -> bool:
    training = subspace.manifest["training"]
    if subspace.manifest["prompt_placement"] != backbone.prompt_placement:
        return False
    if training.get("options") != json.loads(json.dumps(asdict(options))):
        return False
    if training.get("tasks") != [task.name for task in tasks]:
        return False
    return all(was_found_from(subspace, task.name, rows_of_fit(task, options)) for task in tasks)
