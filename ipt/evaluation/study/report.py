"""A study's report: a Markdown page with its plots beside it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipt.evaluation.methods import PT_LEARNING_RATES, SLOW, Measurement, e_rel
from ipt.evaluation.report import score_table
from ipt.evaluation.study import geometry, plots
from ipt.evaluation.study.run import Findings, StudyOptions
from ipt.runtime.atomic_files import replace_atomically
from ipt.subspace.subspace import Subspace

Point = tuple[float, float | None]
"""A mean over tasks, and its standard deviation over the draws where there are several."""

TITLES = {
    "start": "Where tuning starts",
    "readout": "The readout, behind the first start, untuned",
    "tasks": "How many tasks the subspace is found from",
    "prompt-length": "The length of the soft prompts",
    "placement": "Where the prompt stands",
    "finding": "How the subspace is found",
}


@dataclass(frozen=True)
class Plots:
    """The plots of a page: where they are written, and how the page names them."""

    folder: Path
    page: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def shown(self, name: str, what: str) -> str:
        """The Markdown of one."""
        return f"![{what}]({Path(os.path.relpath(self.path(name), self.page.parent)).as_posix()})"


def write_report(
    page: Path, plots_folder: Path, findings: Findings, options: StudyOptions, notes: Sequence[str],
    origin: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write the page, and its plots into their folder.

    Args:
        page: a Markdown file.
        plots_folder: for the plots, as PNG.
        findings: of the study, finished or not.
        options: of the study.
        notes: on rows and tasks that were not read.
        origin: paragraphs on where the figures come from.
    """
    shown = Plots(plots_folder, page)
    lines = ["# A study of task subspaces", ""]
    for paragraph in (*origin, _about(findings, options)):
        lines += [paragraph, ""]
    for part in (_against_prompt_tuning, _methods, _curve, _tasks_in_space):
        lines += part(shown, findings, options)
    for name, variants in findings.ablations.items():
        measured = [each for each in variants if each.measurements]
        if not measured:
            continue
        scores = _on_the_same([each.measurements for each in measured])
        lines += [
            f"## Ablation: {TITLES[name]}",
            "",
            f"Mean accuracy on the unseen tasks ({', '.join(_extent(scores[0]))}), of IST where nothing else is said.",
            "",
        ]
        lines += ["| variant | accuracy |", "| --- | ---: |"]
        lines += [
            f"| {each.name} | {_with_spread(_over_draws(found), '.1f')} |"
            for each, found in zip(measured, scores, strict=True)
        ]
        lines += [""]
    left_out = [*findings.left_out, *notes]
    lines += ["## Left out, or to be noted", "", *([f"- {each}" for each in left_out] or ["Nothing."]), ""]
    page.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(page) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _about(findings: Findings, options: StudyOptions) -> str:
    asked, backbone = options.evaluation, findings.reference.manifest["backbone"]
    rates = asked.pt_learning_rates or PT_LEARNING_RATES[backbone["family"]]
    ids = ", ".join(f"`{subspace.id}` (D = {dim})" for dim, subspace in sorted(findings.subspaces.items()))
    draws = f"{len(options.seeds)}"
    if options.slow_seeds is not None and options.slow_seeds < len(options.seeds):
        slow = [method for method in options.methods if method in SLOW]
        rest = ["the curve over examples a label"] * bool(options.curve) + ["ablations"] * bool(options.ablations)
        draws += f" (the first {options.slow_seeds} for {', '.join([*slow, *rest])})"
    return (
        f"Subspaces on `{backbone['id']}`: {ids}. Measured with {asked.per_label} examples a label, draws of them: "
        f"{draws}, on at most {asked.test_rows} test rows of a task. IST: "
        f"at most {asked.hyperparameters.steps} steps in the subspace. PT: {asked.pt_steps} steps on the whole prompt, "
        f"at the best of {len(rates)} learning rates on held-back examples. Seen tasks are measured with training "
        "examples that the subspace was not found with. Scores are in per cent; behind ± is the standard deviation "
        "over the draws."
    )


def _against_prompt_tuning(shown: Plots, findings: Findings, _: StudyOptions) -> list[str]:
    series: dict[str, dict[int, Point]] = {}
    for split, by_dim in findings.splits.items():
        points = {dim: point for dim, found in by_dim.items() if (point := _mean_e_rel(found))}
        if points:
            series[split] = points
    if not series:
        return []
    plots.plot_e_rel(shown.path("e_rel.png"), series)
    lines = [
        "## Tuning in the subspace against prompt tuning",
        "",
        "E_rel is IST's score divided by PT's, the mean over tasks.",
        "",
        f"| D | {' | '.join(f'{what}, {split}' for what in ('E_rel', 'IST') for split in series)} |",
        "| ---: |" + " ---: |" * (2 * len(series)),
    ]
    for dim in sorted({dim for points in series.values() for dim in points}):
        cells = [_with_spread(points.get(dim), ".3f") for points in series.values()]
        cells += [_cell(findings.splits[split].get(dim, []), "IST") for split in series]
        lines.append(f"| {dim} | {' | '.join(cells)} |")
    prompt = findings.reference.prompt_length * findings.reference.hidden_size
    figure = shown.shown("e_rel.png", "E_rel against the dimension")
    about = f"PT tunes {prompt} numbers a task."
    pt = [one for one in findings.measured if one.method == "PT"]
    told = {(one.task, one.seed): one.detail["moved"] for one in pt if "moved" in one.detail}
    if told:
        kept = sum(not moved for moved in told.values())
        about += (
            f" {kept} of its {len(told)} measurements are of the words that the prompt starts as: no prompt tuned from "
            "them was better on the held-back examples, after any quarter of the steps."
        )
    return [*lines, "", about, "", figure, ""]


def _methods(shown: Plots, findings: Findings, options: StudyOptions) -> list[str]:
    dim = findings.reference.intrinsic_dim
    measured = {split: by_dim[dim] for split, by_dim in findings.splits.items() if by_dim.get(dim)}
    if not measured:
        return []
    every = [one for found in measured.values() for one in found]
    present = [method for method in options.methods if any(one.method == method for one in every)]
    lines = [
        f"## All methods, D = {dim}",
        "",
        "Seconds are those of tuning or training for one task, the median; tasks that were tuned together have none.",
        "",
        f"| method | {' | '.join(f'{split} tasks' for split in measured)} | seconds |",
        "| --- |" + " ---: |" * (len(measured) + 1),
    ]
    for method in present:
        cells = [_cell(found, method) for found in measured.values()]
        lines.append(f"| {method} | {' | '.join(cells)} | {_seconds([one for one in every if one.method == method])} |")
    lines += ["", *_incomplete(measured, present)]
    for split, found in measured.items():
        means = {
            method: {t: statistics.mean(draws) for t, draws in _draws(found, method).items()} for method in present
        }
        families = {one.task: one.family for one in found}
        plots.plot_tasks(shown.path(f"tasks_{split}.png"), means, families)
        lines += [f"### {split.capitalize()} tasks", "", *score_table(found, present), ""]
        lines += [shown.shown(f"tasks_{split}.png", f"Accuracy of each method on each {split} task"), ""]
    spreads = {
        method: [statistics.stdev(draws) for draws in _draws(every, method).values() if len(draws) > 1]
        for method in present
    }
    if len(options.seeds) > 1 and any(spreads.values()):
        plots.plot_stability(shown.path("stability.png"), {m: found for m, found in spreads.items() if found})
        lines += ["### Stability", "", shown.shown("stability.png", "Standard deviation over the draws, by method"), ""]
    return lines


def _seconds(measured: Sequence[Measurement]) -> str:
    """The median of those that a task took alone, by the kind of device it ran on."""
    taken: dict[str, list[float]] = {}
    for one in measured:
        if seconds := one.detail.get("seconds"):
            taken.setdefault((one.device or "cpu").partition(",")[0], []).append(float(seconds))
    return ", ".join(f"{statistics.median(all_of):.1f} on {kind}" for kind, all_of in sorted(taken.items())) or "–"


def _incomplete(measured: Mapping[str, Sequence[Measurement]], methods: Sequence[str]) -> list[str]:
    """What a mean over some of the tasks and draws is to be held against: IST's over the same."""
    notes = []
    for split, found in measured.items():
        ist = [one for one in found if one.method == "IST"]
        for method in methods:
            _, alike = _on_the_same([[one for one in found if one.method == method], ist])
            if alike and len(alike) < len(ist):
                on = " in ".join(_extent(alike, f"{split} task"))
                theirs = 100 * statistics.mean(one.score for one in alike)
                notes.append(f"- {method} was measured on {on}; on the same, IST has {theirs:.1f}.")
    return [*notes, ""] if notes else []


def _curve(shown: Plots, findings: Findings, _: StudyOptions) -> list[str]:
    curve = {count: found for count, found in findings.curve.items() if found}
    if not curve:
        return []
    methods = ("logistic regression", "IST")
    of_each = {
        (count, method): own
        for count, found in curve.items()
        for method in methods
        if (own := [one for one in found if one.method == method])
    }
    alike = dict(zip(of_each, _on_the_same(list(of_each.values())), strict=True))
    points: dict[str, dict[int, Point]] = {method: {} for method in methods}
    for (count, method), found in alike.items():
        if point := _over_draws(found):
            points[method][count] = point
    points = {method: found for method, found in points.items() if found}
    plots.plot_curve(shown.path("curve.png"), points)
    extent = ", ".join(_extent(next(iter(alike.values()))))
    about = f"Mean accuracy on the unseen tasks with rows enough ({extent}), D = {findings.reference.intrinsic_dim}."
    if 1 in curve:
        about += " With one example a label there is nothing to tune by: IST is its first start there."
    lines = ["## Examples a label", "", about, "", f"| examples a label | {' | '.join(points)} | IST is worse on |"]
    lines.append("| ---: |" + " ---: |" * len(points) + " --- |")
    for count in sorted(curve):
        cells = [_with_spread(of_method.get(count), ".1f") for of_method in points.values()]
        counted = [one for method in methods for one in alike.get((count, method), ())]
        lines.append(f"| {count} | {' | '.join(cells)} | {_lost(counted)} |")
    return [*lines, "", shown.shown("curve.png", "Accuracy against examples a label"), ""]


def _lost(measured: Sequence[Measurement]) -> str:
    """The tasks on which IST is worse than logistic regression, and by how many points."""
    ist, other = (_draws(measured, method) for method in ("IST", "logistic regression"))
    gaps = {task: statistics.mean(ist[task]) - statistics.mean(other[task]) for task in ist.keys() & other.keys()}
    lost = sorted((gap, task) for task, gap in gaps.items() if gap < 0)
    return ", ".join(f"{task} ({gap:.1f})" for gap, task in lost) or "none"


def _tasks_in_space(shown: Plots, findings: Findings, _: StudyOptions) -> list[str]:
    subspace = findings.reference
    if subspace.task_vectors is None or len(subspace.task_vectors) < 2:
        return []
    names, families = tasks_of(subspace)
    vectors = subspace.task_vectors.double().numpy()
    places, shares = geometry.plane(vectors)
    similar = geometry.similarities(vectors)
    plots.plot_map(shown.path("map.png"), places, shares, names, families)
    plots.plot_similarities(shown.path("similarities.png"), similar, names, families)
    within, between = geometry.within_and_between(similar, families)
    cosines = ", ".join(
        f"{value:.2f} of two tasks of {what}"
        for value, what in ((within, "one family"), (between, "two families"))
        if value is not None
    )
    about = (
        f"The vectors of the {len(names)} tasks that the subspace of D = {subspace.intrinsic_dim} was found from. "
        f"Mean cosine: {cosines}."
    )
    figures = [shown.shown("map.png", "Task vectors on two principal components"), ""]
    figures += [shown.shown("similarities.png", "Cosines of the task vectors, by family"), ""]
    return ["## The tasks in the subspace", "", about, "", *figures]


def tasks_of(subspace: Subspace) -> tuple[list[str], list[str]]:
    """Names and families of the tasks that a subspace was found from, in the order of its task vectors."""
    training = subspace.manifest["training"]
    names = [str(name) for name in training["tasks"]]
    return names, [str(family) for family in training.get("families", names)]


def _on_the_same(groups: Sequence[Sequence[Measurement]]) -> list[list[Measurement]]:
    """Of each group what was measured on tasks and draws that all of them have."""
    common = set.intersection(*({(one.task, one.seed) for one in group} for group in groups))
    return [[one for one in group if (one.task, one.seed) in common] for group in groups]


def _extent(measurements: Sequence[Measurement], what: str = "task") -> tuple[str, str]:
    """How many tasks, and how many draws."""
    counts = (what, len({one.task for one in measurements})), ("draw", len({one.seed for one in measurements}))
    tasks, draws = (f"{count} {name}" if count == 1 else f"{count} {name}s" for name, count in counts)
    return tasks, draws


def _draws(measurements: Sequence[Measurement], method: str) -> dict[str, list[float]]:
    """Scores in per cent, by task."""
    found: dict[str, list[float]] = {}
    for one in measurements:
        if one.method == method:
            found.setdefault(one.task, []).append(100 * one.score)
    return found


def _cell(measurements: Sequence[Measurement], method: str) -> str:
    return _with_spread(_over_draws([one for one in measurements if one.method == method]), ".1f")


def _over_draws(measurements: Sequence[Measurement]) -> Point | None:
    """Mean score over tasks, in per cent: its mean and standard deviation over the draws."""
    by_seed: dict[int, list[float]] = {}
    for one in measurements:
        by_seed.setdefault(one.seed, []).append(100 * one.score)
    return _mean_and_deviation([statistics.mean(scores) for scores in by_seed.values()])


def _mean_e_rel(measurements: Sequence[Measurement]) -> Point | None:
    """The mean over tasks of E_rel, and the standard deviation of that over the draws."""
    relative = e_rel(measurements)
    if not relative:
        return None
    of_draws = [e_rel([one for one in measurements if one.seed == seed]) for seed in {one.seed for one in measurements}]
    spread = _mean_and_deviation([statistics.mean(found.values()) for found in of_draws if found])
    return statistics.mean(relative.values()), spread[1] if spread else None


def _mean_and_deviation(values: Sequence[float]) -> Point | None:
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def _with_spread(point: Point | None, style: str) -> str:
    if point is None:
        return "–"
    mean, deviation = point
    return f"{mean:{style}}" if deviation is None else f"{mean:{style}} ± {deviation:{style}}"
