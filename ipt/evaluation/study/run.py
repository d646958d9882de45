"""The study of subspaces: fitted for several dimensions, measured on seen and unseen tasks, and compared.

What takes long is kept in the study's folder as soon as it is there (fits by their checkpoints, measurements one by
one), so that the same study goes on where it was killed, and ends as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain, zip_longest
from pathlib import Path

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, EncoderPlacement
from ipt.data.task_folder import FolderTask
from ipt.errors import CheckpointError, DatasetError
from ipt.evaluation.measured_tasks import other_rows, was_found_from, with_rows
from ipt.evaluation.methods import (
    READOUTS,
    SLOW,
    STARTS,
    Evaluation,
    EvaluationOptions,
    Measurement,
)
from ipt.evaluation.report import MeasurementFile, measure_missing
from ipt.fitting.autoencoder import AutoencoderFit, AutoencoderOptions
from ipt.fitting.direct import DirectFit, FitOptions
from ipt.fitting.resumable import ResumableFit, is_finished
from ipt.fitting.task_losses import RowOptions, TaskLosses, fault_of_task, prepare_tasks, rows_of_fit
from ipt.fitting.tune_prompts import PromptOptions, tune_prompts
from ipt.subspace.soft_prompt_files import read_prompts
from ipt.subspace.store import load_subspace
from ipt.subspace.subspace import Subspace

ABLATIONS = ("start", "readout", "tasks", "prompt-length", "placement", "finding")
TASK_COUNTS = (10, 30)
PROMPT_LENGTHS = (4, 32)
PLACES: dict[EncoderPlacement, str] = {
    "before_first_token": "in front of everything",
    "after_last_token": "behind everything",
    "after_first_token": "behind the first special token",
}

OnProgress = Callable[[str, int, int, str], None]
"""Takes what is going on, how much of it is done, of how much, and how it goes."""


@dataclass(frozen=True)
class StudyOptions:
    """What is fitted and measured. `fit`'s dimension and seed, and the examples of `evaluation`, are per run."""

    dimensions: tuple[int, ...] = (5, 10, 50, 100, 250)
    methods: tuple[str, ...] = ("class names", "logistic regression", "nearest neighbours", "PT", "random", "IST")
    seeds: tuple[int, ...] = (100, 101, 102)
    """Of the draws of examples; the fit has seed 0."""
    slow_seeds: int | None = None
    """On the first so many draws what takes long is measured: the methods of `SLOW`, the curve and the ablations."""
    seen_tasks: int | None = None
    unseen_tasks: int | None = None
    """Most tasks that are measured, of as many families as there are; all where None."""
    curve: tuple[int, ...] = (1, 4, 8, 16, 64)
    """Examples a label at which IST and logistic regression are compared."""
    ablations: tuple[str, ...] = ()
    fit: FitOptions = field(default_factory=FitOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: what was changed, and what was measured on the unseen tasks."""

    name: str
    measurements: list[Measurement]
    """Of one method."""


@dataclass
class Findings:
    """All that a study has found so far. Measurements are by dimension, or by examples a label."""

    subspaces: dict[int, Subspace] = field(default_factory=dict)
    splits: dict[str, dict[int, list[Measurement]]] = field(default_factory=lambda: {"seen": {}, "unseen": {}})
    curve: dict[int, list[Measurement]] = field(default_factory=dict)
    ablations: dict[str, list[Variant]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Tasks that could not be used, and why."""

    @property
    def measured(self) -> list[Measurement]:
        """Everything that was measured."""
        by_dimension = (found for of_split in self.splits.values() for found in of_split.values())
        of_variants = (variant.measurements for variants in self.ablations.values() for variant in variants)
        return list(chain.from_iterable([*by_dimension, *self.curve.values(), *of_variants]))

    @property
    def reference(self) -> Subspace:
        """The subspace of the largest dimension."""
        return self.subspaces[max(self.subspaces)]


class _MissingError(CheckpointError):
    """A subspace that would have to be found, in a study that only reports."""


class Study:
    """One study in one folder.

    Args:
        backbone: the frozen model.
        seen, unseen: the tasks that subspaces are found from, and those that they are not.
        given: subspaces that are there already, to be used for their dimension.
        folder: keeps everything.
        options: what is done.
        on_progress: called often.
        measuring: without it nothing is found or measured; findings are what the folder has.
        origin: what else the manifests of the subspaces that are found are to tell.
    """

    def __init__(
        self,
        backbone: Backbone,
        seen: Sequence[FolderTask],
        unseen: Sequence[FolderTask],
        given: Sequence[Subspace],
        folder: Path,
        options: StudyOptions,
        on_progress: OnProgress,
        measuring: bool = True,
        origin: Mapping[str, object] | None = None,
    ) -> None:
        self.backbone = backbone
        self.seen = seen
        self.unseen = unseen
        self.given = {subspace.intrinsic_dim: subspace for subspace in given}
        self.folder = folder
        self.options = options
        self.findings = Findings()
        self._show = on_progress
        self._measuring = measuring
        self._origin = origin or {}
        self._prepared: TaskLosses | None = None

    def run(self, on_part: Callable[[Findings], None]) -> Findings:
        """Do what is not done yet; `on_part` is called whenever there is more to report.

        Raises:
            CheckpointError: the folder has a fit with other options, or, where nothing is to be found, none.
            DatasetError: no task is left to measure on.
        """
        found, options = self.findings, self.options
        self.seen = self._learnable(self.seen)
        for dim in options.dimensions:
            try:
                found.subspaces[dim] = self.given.get(dim) or self._fit_direct(
                    self.folder / f"dimension-{dim}", replace(options.fit, intrinsic_dim=dim), self.seen
                )
            except _MissingError as error:
                found.left_out.append(error.message)
        if not found.subspaces:
            raise CheckpointError(f"{found.left_out[-1]}: let the study run until it has one")
        subspaces = list(found.subspaces.values())
        tasks = {
            split: self._measured(other_rows(of_split, subspaces, found.left_out), most)
            for split, of_split, most in (
                ("seen", self.seen, options.seen_tasks),
                ("unseen", self.unseen, options.unseen_tasks),
            )
        }
        # The reference first: what does not depend on the subspace is measured beside it.
        for dim in sorted(found.subspaces, reverse=True):
            for split in ("unseen", "seen"):
                what = f"{split} tasks, dimension {dim}"
                measured = found.splits[split][dim] = []
                for methods, seeds in self._methods():
                    self._measure(what, found.subspaces[dim], tasks[split], methods, seeds, into=measured)
                    on_part(found)
        try:
            on_curve = self._with_rows(tasks["unseen"], max(options.curve)) if options.curve else []
        except DatasetError as error:
            found.left_out.append(f"the curve over examples a label: {error.message}")
            on_curve = []
        # A backbone that writes cannot be asked with one example a label.
        for per_label in (count for count in options.curve if count > 1 or self.backbone.family == "encoder"):
            if on_curve:
                few = replace(options.evaluation, per_label=per_label)
                what, methods = f"{per_label} examples a label", ["logistic regression", "IST"]
                measured = found.curve[per_label] = []
                self._measure(what, found.reference, on_curve, methods, self._slow_seeds, few, measured)
        on_part(found)
        for name in options.ablations:
            try:
                found.ablations[name] = self._ablation(name, tasks["unseen"])
            except _MissingError as error:
                found.left_out.append(f"the ablation {name!r}: {error.message}")
            on_part(found)
        return found

    def _methods(self) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """The methods, quick ones first, and the draws that they are measured on."""
        for slow, seeds in ((False, self.options.seeds), (True, self._slow_seeds)):
            methods = [method for method in self.options.methods if (method in SLOW) == slow]
            if methods:
                yield methods, seeds

    @property
    def _slow_seeds(self) -> tuple[int, ...]:
        return self.options.seeds[: self.options.slow_seeds]

    def _ablation(self, name: str, unseen: Sequence[FolderTask]) -> list[Variant]:
        reference = self.findings.reference
        if name == "start":
            return self._starts(reference, unseen)
        if name == "readout":
            measured = self._measure(
                "ablation: readouts", reference, unseen, ("logistic regression", *READOUTS), self._slow_seeds
            )
            return [
                Variant(method, [one for one in measured if one.method == method])
                for method in ("logistic regression", *READOUTS)
            ]
        fit = replace(self.options.fit, intrinsic_dim=reference.intrinsic_dim)
        folder = self.folder / "ablations"
        variants: list[Variant] = []

        def add(what: str, subspace: Subspace, backbone: Backbone | None = None) -> None:
            measured = self._measure(
                f"ablation: {what}", subspace, unseen, ("IST",), self._slow_seeds, backbone=backbone
            )
            variants.append(Variant(what, measured))

        if name == "tasks":
            for count in (count for count in TASK_COUNTS if count < len(self.seen)):
                add(f"{count} seen tasks", self._fit_direct(folder / f"tasks-{count}", fit, spread(self.seen, count)))
            add(f"{len(self.seen)} seen tasks (as above)", reference)
        elif name == "prompt-length":
            for length in PROMPT_LENGTHS:
                of_length = replace(fit, prompt_length=length)
                add(f"prompts of {length}", self._fit_direct(folder / f"prompt-length-{length}", of_length, self.seen))
            add(f"prompts of {reference.prompt_length} (as above)", reference)
        elif name == "placement":
            if not isinstance(self.backbone, EncoderBackbone):
                self.findings.left_out.append(
                    "the ablation 'placement': an encoder alone has several places for a prompt"
                )
                return []
            for placement, where in PLACES.items():
                if placement == self.backbone.prompt_placement:
                    add(f"prompts {where} (as above)", reference)
                    continue
                placed = self.backbone.placed(placement)
                add(f"prompts {where}", self._fit_direct(folder / placement, fit, self.seen, placed), placed)
        else:
            add("from tuned prompts, as in the paper", self._fit_paper(folder / "paper", fit))
            add("directly from the tasks (as above)", reference)
        return variants

    def _starts(self, subspace: Subspace, unseen: Sequence[FolderTask]) -> list[Variant]:
        asked = self.options.evaluation
        untuned = replace(asked, hyperparameters=replace(asked.hyperparameters, steps=0))
        methods = ("IST", *STARTS) if subspace.task_vectors is not None else ("IST", STARTS[0])
        variants = []
        for how, evaluation in (("untuned", untuned), ("tuned", asked)):
            measured = self._measure(
                f"ablation: starts, {how}", subspace, unseen, methods, self._slow_seeds, evaluation
            )
            for method in methods:
                start = "the likeliest initial vector" if method == "IST" else method.removeprefix("IST from ")
                variants.append(Variant(f"{start}, {how}", [one for one in measured if one.method == method]))
        return variants

    def _fit_direct(
        self, folder: Path, options: FitOptions, tasks: Sequence[FolderTask], backbone: Backbone | None = None
    ) -> Subspace:
        def make() -> ResumableFit:
            return DirectFit(self._losses(tasks, options, backbone), options)

        return self._fit(folder, options, tasks, make, backbone)

    def _fit_paper(self, folder: Path, like: FitOptions) -> Subspace:
        """An auto-encoder of tuned prompts; rows, dimension, prompt length and steps as in the direct fit."""
        own = {each.name: getattr(like, each.name) for each in fields(RowOptions)}
        options = AutoencoderOptions(**own, intrinsic_dim=like.intrinsic_dim, steps=like.steps)

        def make() -> ResumableFit:
            path = folder / "prompts.safetensors"
            tune_prompts(
                self.backbone,
                self.seen,
                path,
                PromptOptions(prompt_length=like.prompt_length),
                on_step=lambda done, total, _: self._show("tuning prompts", done, total, ""),
            )
            return AutoencoderFit(self._losses(self.seen, options), read_prompts(path, self.backbone), options)

        return self._fit(folder, options, self.seen, make)

    def _fit(
        self,
        folder: Path,
        options: RowOptions,
        tasks: Sequence[FolderTask],
        make: Callable[[], ResumableFit],
        backbone: Backbone | None = None,
    ) -> Subspace:
        """The folder's subspace, which is found there first where it is not finished."""
        if is_finished(folder):
            subspace = load_subspace(folder, backbone or self.backbone)
            training = subspace.manifest["training"]
            wanted = json.loads(json.dumps(asdict(options)))
            if (training.get("options"), training.get("tasks")) != (wanted, [task.name for task in tasks]) or not all(
                was_found_from(subspace, task.name, rows_of_fit(task, options)) for task in tasks
            ):
                raise CheckpointError(
                    f"{folder} has a subspace that was found with other tasks, rows or options: remove it, or choose "
                    "another folder for the study"
                )
            return subspace
        if not self._measuring:
            raise _MissingError(f"{folder} has no finished subspace to report on")
        running = make()
        running.origin = self._origin
        return running.run_in(
            folder,
            lambda step, _: self._show(f"fitting {folder.name}", step.step, step.steps, f", loss {step.loss:.3g}"),
        )

    def _losses(self, tasks: Sequence[FolderTask], options: RowOptions, backbone: Backbone | None = None) -> TaskLosses:
        """What a fit learns from. Reading all seen tasks takes minutes, so it is done once for all their fits."""
        if tasks is not self.seen:
            return prepare_tasks(backbone or self.backbone, tasks, options)
        if self._prepared is None:
            self._prepared = prepare_tasks(
                self.backbone, tasks, options, lambda done, total: self._show("reading tasks", done, total, "")
            )
        return self._prepared.anew(options, backbone)

    def _learnable(self, tasks: Sequence[FolderTask]) -> list[FolderTask]:
        """Those of the tasks that subspaces can be found from; of the others it is noted why not."""
        faults = [fault_of_task(self.backbone, task, self.options.fit.examples_per_label) for task in tasks]
        self.findings.left_out += [fault for fault in faults if fault is not None]
        learnable = [task for task, fault in zip(tasks, faults, strict=True) if fault is None]
        if not learnable:
            raise DatasetError(f"no subspace can be found from the seen tasks; {self.findings.left_out[-1]}")
        return learnable

    def _measured(self, tasks: Sequence[FolderTask], most: int | None) -> list[FolderTask]:
        """At most so many of the tasks, without those that cannot be measured with the examples asked for."""
        return spread(self._with_rows(tasks, self.options.evaluation.per_label), most)

    def _with_rows(self, tasks: Sequence[FolderTask], per_label: int) -> list[FolderTask]:
        return with_rows(tasks, per_label, self.findings.left_out, self.backbone.family)

    def _measure(
        self,
        what: str,
        subspace: Subspace,
        tasks: Sequence[FolderTask],
        methods: Sequence[str],
        seeds: Sequence[int],
        options: EvaluationOptions | None = None,
        into: list[Measurement] | None = None,
        backbone: Backbone | None = None,
    ) -> list[Measurement]:
        """What is measured, which is also put `into` that list, one by one as it is there."""
        evaluation = Evaluation(backbone or self.backbone, subspace, options or self.options.evaluation)
        alike = [one.id for one in self.findings.subspaces.values() if one.prompt_length == subspace.prompt_length]
        kept = MeasurementFile(self.folder / "measurements.jsonl", evaluation.identity, alike)
        measured = [] if into is None else into
        for one in measure_missing(
            evaluation,
            kept,
            tasks,
            seeds,
            methods,
            lambda done, total, task: self._show(f"measuring {what}", done, total, f", {task}" if task else ""),
            only_kept=not self._measuring,
        ):
            measured.append(one)
        return measured


def spread(tasks: Sequence[FolderTask], most: int | None) -> list[FolderTask]:
    """At most so many of the tasks, in order of name: one of each family in turn."""
    if most is None or len(tasks) <= most:
        return list(tasks)
    families: dict[str, list[FolderTask]] = {}
    for task in tasks:
        families.setdefault(task.family, []).append(task)
    in_turn = [task for task in chain.from_iterable(zip_longest(*families.values())) if task is not None]
    return sorted(in_turn[:most], key=lambda task: task.name)
