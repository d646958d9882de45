"""The sections of a study's report: each function returns Markdown lines, and writes the plots of its section."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipt.evaluation.measurements import Measurement
from ipt.evaluation.report import score_table
from ipt.evaluation.study import geometry, plots
from ipt.evaluation.study.averages import (
    Point,
    cell,
    extent,
    mean_e_rel,
    mean_score,
    of_method,
    on_common_draws,
    scores_by_task,
    with_spread,
)
from ipt.evaluation.study.findings import Findings
from ipt.evaluation.study.options import StudyOptions
from ipt.subspace.subspace import Subspace


@dataclass(frozen=True)
class PlotFolder:
    """The folder of a page's plots."""

    folder: Path
    page: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def markdown(self, name: str, description: str) -> str:
        """Return the Markdown that shows a plot on the page."""
        return f"![{description}]({Path(os.path.relpath(self.path(name), self.page.parent)).as_posix()})"


def subspace_against_prompt_tuning(folder: PlotFolder, findings: Findings) -> list[str]:
    """E_rel by dimension, on seen and on unseen tasks."""
    series: dict[str, dict[int, Point]] = {}
    for split, by_dim in findings.splits.items():
        points = {dim: point for dim, measured in by_dim.items() if (point := mean_e_rel(measured))}
        if points:
            series[split] = points
    if not series:
        return []
    plots.plot_e_rel(folder.path("e_rel.png"), series)
    lines = [
        "## Tuning in the subspace compared with prompt tuning",
        "",
        "E_rel is IST's score divided by PT's, averaged over tasks.",
        "",
        f"| D | {' | '.join(f'{what}, {split}' for what in ('E_rel', 'IST') for split in series)} |",
        "| ---: |" + " ---: |" * (2 * len(series)),
    ]
    for dim in sorted({dim for points in series.values() for dim in points}):
        cells = [with_spread(points.get(dim), ".3f") for points in series.values()]
        cells += [cell(findings.splits[split].get(dim, []), "IST") for split in series]
        lines.append(f"| {dim} | {' | '.join(cells)} |")
    return [*lines, "", _about_pt(findings), "", folder.markdown("e_rel.png", "E_rel against the dimension"), ""]


def _about_pt(findings: Findings) -> str:
    """How many numbers PT tunes, and how often no tuned prompt was better than the start."""
    about = f"PT tunes {findings.reference.prompt_length * findings.reference.hidden_size} numbers per task."
    pt = of_method(findings.measured, "PT")
    moved = {(each.task, each.seed): each.detail["moved"] for each in pt if "moved" in each.detail}
    if moved:
        kept = sum(not each for each in moved.values())
        about += (
            f" {kept} of its {len(moved)} measurements are of the words that the prompt starts as: at no validation "
            "(after each quarter of the steps) did the tuned prompt score better on the held-back examples."
        )
    return about


def all_methods(folder: PlotFolder, findings: Findings, options: StudyOptions) -> list[str]:
    """All methods at the largest dimension: means, scores by task, and stability over the draws."""
    dim = findings.reference.intrinsic_dim
    by_split = {split: by_dim[dim] for split, by_dim in findings.splits.items() if by_dim.get(dim)}
    if not by_split:
        return []
    everything = [each for measured in by_split.values() for each in measured]
    present = [method for method in options.methods if of_method(everything, method)]
    lines = [
        f"## All methods, D = {dim}",
        "",
        "Seconds: the median time to tune or train one task. Tasks that were tuned together have no time of their own.",
        "",
        f"| method | {' | '.join(f'{split} tasks' for split in by_split)} | seconds |",
        "| --- |" + " ---: |" * (len(by_split) + 1),
    ]
    for method in present:
        cells = [cell(measured, method) for measured in by_split.values()]
        lines.append(f"| {method} | {' | '.join(cells)} | {_seconds(of_method(everything, method))} |")
    lines += ["", *_incomplete(by_split, present)]
    for split, measured in by_split.items():
        lines += _tasks_of_split(folder, split, measured, present)
    if len(options.seeds) > 1:
        lines += _stability(folder, everything, present)
    return lines


def _seconds(measurements: Sequence[Measurement]) -> str:
    """The median seconds by kind of device, of the tasks that were tuned one at a time."""
    seconds_on: dict[str, list[float]] = {}
    for each in measurements:
        if seconds := each.detail.get("seconds"):
            seconds_on.setdefault((each.device or "cpu").partition(",")[0], []).append(float(seconds))
    return ", ".join(f"{statistics.median(each):.1f} on {device}" for device, each in sorted(seconds_on.items())) or "–"


def _incomplete(by_split: Mapping[str, Sequence[Measurement]], methods: Sequence[str]) -> list[str]:
    """For each method that was measured on fewer tasks or draws than IST, IST's score on the same ones."""
    notes = []
    for split, measured in by_split.items():
        ist = of_method(measured, "IST")
        for method in methods:
            _, common = on_common_draws([of_method(measured, method), ist])
            if common and len(common) < len(ist):
                on = " in ".join(extent(common, f"{split} task"))
                ist_score = 100 * statistics.mean(each.score for each in common)
                notes.append(f"- {method} was measured on {on}; on the same, IST has {ist_score:.1f}.")
    return [*notes, ""] if notes else []


def _tasks_of_split(
    folder: PlotFolder, split: str, measured: Sequence[Measurement], methods: Sequence[str]
) -> list[str]:
    means = {
        method: {task: statistics.mean(scores) for task, scores in scores_by_task(measured, method).items()}
        for method in methods
    }
    plot = f"tasks_{split}.png"
    plots.plot_tasks(folder.path(plot), means, {each.task: each.family for each in measured})
    return [
        *(f"### {split.capitalize()} tasks", "", *score_table(measured, methods), ""),
        *(folder.markdown(plot, f"Accuracy of each method on each {split} task"), ""),
    ]


def _stability(folder: PlotFolder, measured: Sequence[Measurement], methods: Sequence[str]) -> list[str]:
    by_method = {method: scores_by_task(measured, method).values() for method in methods}
    spreads = {
        method: [statistics.stdev(scores) for scores in by_task if len(scores) > 1]
        for method, by_task in by_method.items()
    }
    spreads = {method: of_tasks for method, of_tasks in spreads.items() if of_tasks}
    if not spreads:
        return []
    plots.plot_stability(folder.path("stability.png"), spreads)
    return ["### Stability", "", folder.markdown("stability.png", "Standard deviation over the draws, by method"), ""]


def curve(folder: PlotFolder, findings: Findings) -> list[str]:
    """IST and logistic regression by number of examples per label."""
    by_count = {count: measured for count, measured in findings.curve.items() if measured}
    if not by_count:
        return []
    methods = ("logistic regression", "IST")
    groups = {
        (count, method): group
        for count, measured in by_count.items()
        for method in methods
        if (group := of_method(measured, method))
    }
    common = dict(zip(groups, on_common_draws(list(groups.values())), strict=True))
    points: dict[str, dict[int, Point]] = {}
    for method in methods:
        by_size = {count: point for (count, name), group in common.items() if name == method
                   and (point := mean_score(group))}  # fmt: skip
        if by_size:
            points[method] = by_size
    plots.plot_curve(folder.path("curve.png"), points)
    tasks = ", ".join(extent(next(iter(common.values()))))
    about = f"Mean accuracy on the unseen tasks with enough rows ({tasks}), D = {findings.reference.intrinsic_dim}."
    if 1 in by_count:
        about += " With one example per label, IST is the untuned readout at its first initial vector."
    lines = ["## Examples per label", "", about, "", f"| examples per label | {' | '.join(points)} | IST is worse on |"]
    lines.append("| ---: |" + " ---: |" * len(points) + " --- |")
    for count in sorted(by_count):
        cells = [with_spread(by_size.get(count), ".1f") for by_size in points.values()]
        measured = [each for method in methods for each in common.get((count, method), ())]
        lines.append(f"| {count} | {' | '.join(cells)} | {_tasks_lost(measured)} |")
    return [*lines, "", folder.markdown("curve.png", "Accuracy against examples per label"), ""]


def _tasks_lost(measurements: Sequence[Measurement]) -> str:
    """The tasks on which IST is worse than logistic regression, and by how many points."""
    ist, baseline = (scores_by_task(measurements, method) for method in ("IST", "logistic regression"))
    gaps = {task: statistics.mean(ist[task]) - statistics.mean(baseline[task]) for task in ist.keys() & baseline.keys()}
    lost = sorted((gap, task) for task, gap in gaps.items() if gap < 0)
    return ", ".join(f"{task} ({gap:.1f})" for gap, task in lost) or "none"


def tasks_in_subspace(folder: PlotFolder, findings: Findings) -> list[str]:
    """Where the vectors of the seen tasks lie in the subspace of the largest dimension."""
    subspace = findings.reference
    if subspace.task_vectors is None or len(subspace.task_vectors) < 2:
        return []
    names, families = _tasks_and_families(subspace)
    vectors = subspace.task_vectors.double().numpy()
    projected, shares = geometry.principal_components(vectors)
    cosines = geometry.cosine_similarities(vectors)
    plots.plot_map(folder.path("map.png"), projected, shares, names, families)
    plots.plot_similarities(folder.path("similarities.png"), cosines, names, families)
    within, between = geometry.within_and_between(cosines, families)
    mean_cosines = ", ".join(
        f"{value:.2f} between tasks of {what}"
        for value, what in ((within, "one family"), (between, "different families"))
        if value is not None
    )
    about = (
        f"The vectors of the {len(names)} seen tasks in the subspace of D = {subspace.intrinsic_dim}. "
        f"Mean cosine: {mean_cosines}."
    )
    figures = [folder.markdown("map.png", "Task vectors on two principal components"), ""]
    figures += [folder.markdown("similarities.png", "Cosines of the task vectors, by family"), ""]
    return ["## The tasks in the subspace", "", about, "", *figures]


def _tasks_and_families(subspace: Subspace) -> tuple[list[str], list[str]]:
    """Return names and families of the tasks that a subspace was found from, in the order of its task vectors."""
    training = subspace.manifest["training"]
    names = [str(name) for name in training["tasks"]]
    return names, [str(family) for family in training.get("families", names)]
