"""Ablations: change one thing about the reference subspace, and measure IST on the unseen tasks again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, EncoderPlacement
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.methods import READOUTS, STARTS
from ipt.evaluation.study.findings import SkippedPartError, Variant
from ipt.evaluation.study.fits import StudyFits
from ipt.evaluation.study.measuring import StudyMeasurer
from ipt.evaluation.study.options import StudyOptions
from ipt.evaluation.study.task_selection import spread_over_families
from ipt.fitting.direct_fit import FitOptions
from ipt.subspace.subspace import Subspace

TASK_COUNTS = (10, 30)
PROMPT_LENGTHS = (4, 32)
PLACEMENTS: dict[EncoderPlacement, str] = {
    "before_first_token": "before the first token",
    "after_last_token": "after the last token",
    "after_first_token": "after the first special token",
}


@dataclass(frozen=True)
class Ablations:
    """The ablations of one study."""

    backbone: Backbone
    reference: Subspace
    unseen: Sequence[TaskDataset]
    fits: StudyFits
    measurer: StudyMeasurer
    options: StudyOptions
    folder: Path
    """Keeps the subspaces that are fitted."""

    def run(self, name: str) -> list[Variant]:
        """Return the variants of the ablation `name`, a key of `ABLATIONS`.

        Raises:
            SkippedPartError: the backbone's family does not support it, or a subspace is missing.
        """
        return ABLATIONS[name](self)

    def start(self) -> list[Variant]:
        """Compare the vectors that tuning starts at, before and after tuning."""
        tuned = self.options.evaluation
        untuned = replace(tuned, hyperparameters=replace(tuned.hyperparameters, steps=0))
        starts = list(STARTS) if self.reference.task_vectors is not None else ["IST from zero"]
        methods = ("IST", *starts)
        variants = []
        for how, evaluation in (("untuned", untuned), ("tuned", tuned)):
            measured = self.measurer.measure(
                f"ablation: starts, {how}", self.reference, self.unseen, methods, self.options.seeds_of_slow, evaluation
            )
            for method in methods:
                start = "the likeliest initial vector" if method == "IST" else method.removeprefix("IST from ")
                variants.append(Variant(f"{start}, {how}", [each for each in measured if each.method == method]))
        return variants

    def readout(self) -> list[Variant]:
        """Compare readouts with the prompt of the first initial vector, untuned."""
        methods = ("logistic regression", *READOUTS)
        measured = self.measurer.measure(
            "ablation: readouts", self.reference, self.unseen, methods, self.options.seeds_of_slow
        )
        return [Variant(method, [each for each in measured if each.method == method]) for method in methods]

    def tasks(self) -> list[Variant]:
        """Find the subspace from fewer tasks."""
        seen = self.fits.seen
        variants = []
        for count in (count for count in TASK_COUNTS if count < len(seen)):
            subspace = self.fits.direct(
                self.folder / f"tasks-{count}", self._fit_options, spread_over_families(seen, count)
            )
            variants.append(self._variant(f"{count} seen tasks", subspace))
        return [*variants, self._variant(f"{len(seen)} seen tasks (as above)", self.reference)]

    def prompt_length(self) -> list[Variant]:
        """Find the subspace with shorter and with longer prompts."""
        variants = []
        for length in PROMPT_LENGTHS:
            options = replace(self._fit_options, prompt_length=length)
            subspace = self.fits.direct(self.folder / f"prompt-length-{length}", options)
            variants.append(self._variant(f"prompt length {length}", subspace))
        return [*variants, self._variant(f"prompt length {self.reference.prompt_length} (as above)", self.reference)]

    def placement(self) -> list[Variant]:
        """Find the subspace with prompts in other places."""
        if not isinstance(self.backbone, EncoderBackbone):
            raise SkippedPartError("only an encoder has several places for a prompt")
        variants = []
        for placement, where in PLACEMENTS.items():
            if placement == self.reference.manifest["prompt_placement"]:
                variants.append(self._variant(f"prompt {where} (as above)", self.reference))
                continue
            placed = self.backbone.placed(placement)
            subspace = self.fits.direct(self.folder / placement, self._fit_options, backbone=placed)
            variants.append(self._variant(f"prompt {where}", subspace, placed))
        return variants

    def finding(self) -> list[Variant]:
        """Find the subspace the paper's way."""
        subspace = self.fits.from_tuned_prompts(self.folder / "paper", self._fit_options)
        return [
            self._variant("from tuned prompts, as in the paper", subspace),
            self._variant("directly from the tasks (as above)", self.reference),
        ]

    @property
    def _fit_options(self) -> FitOptions:
        return replace(self.options.fit, intrinsic_dim=self.reference.intrinsic_dim)

    def _variant(self, name: str, subspace: Subspace, backbone: Backbone | None = None) -> Variant:
        measured = self.measurer.measure(
            f"ablation: {name}", subspace, self.unseen, ("IST",), self.options.seeds_of_slow, backbone=backbone
        )
        return Variant(name, measured)


ABLATIONS: Mapping[str, Callable[[Ablations], list[Variant]]] = {
    "start": Ablations.start,
    "readout": Ablations.readout,
    "tasks": Ablations.tasks,
    "prompt-length": Ablations.prompt_length,
    "placement": Ablations.placement,
    "finding": Ablations.finding,
}
