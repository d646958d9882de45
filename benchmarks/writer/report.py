"""docs/results-writer.md: means, goals, tasks and the map of task vectors, from stored measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.writer.draws import NUMBERS, TOKENS_READ
from benchmarks.writer.vectors import VECTORS, read_vectors
from ipt.evaluation.evaluation import Evaluation
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.study import geometry, plots
from ipt.evaluation.study.averages import cell, mean_e_rel, of_method, on_common_draws, with_spread
from ipt.subspace.subspace import Subspace
from ipt.tuning.text_scores import TEXT_SCORES

IST, PT, RANDOM = "IST", "PT", "random"
ZERO, IN_CONTEXT, INSTRUCTION, LORA = "zero vector", "examples in context", "instruction", "LoRA"
Measured = Sequence[Measurement]


def of_dimension(dim: int) -> str:
    """Return the name of IST in a further subspace of this dimension."""
    return f"IST, D = {dim}"


def write(
    path: Path,
    origin: str,
    evaluation: Evaluation,
    splits: Mapping[str, Sequence[str]],
    families: Mapping[str, str],
    measurements: Measured,
) -> None:
    """Write the page and its plots.

    Args:
        path: the page; plots lie in the folder of the same name.
        origin: the paragraph that says how the figures were made.
        evaluation: of the main subspace.
        splits: the measured tasks of `seen` and `unseen`.
        families: of all tasks.
        measurements: all that are stored.
    """
    subspace, options = evaluation.subspace, evaluation.options
    by_split = {split: [each for each in measurements if each.task in names] for split, names in splits.items()}
    draws = len({each.seed for each in measurements})
    setting = (
        f"{origin} Backbone `{evaluation.backbone.identity.id}`, subspace `{subspace.id}` (D = "
        f"{subspace.intrinsic_dim}, P = {subspace.prompt_length}, `{evaluation.backbone.prompt_placement}`), "
        f"{options.per_label} examples per label ({2 * options.per_label} of a text task), {draws} draws. Scores in "
        "per cent, ± standard deviation over draws: exact match of texts, accuracy of labels, which are chosen by "
        "likelihood. Each method is averaged over the tasks and draws that it was measured on; the goals compare on "
        "tasks and draws that both methods have. *Seen* tasks are measured on rows that no fit has seen."
    )
    text = ["# A subspace of a model that writes, on real text tasks", setting]
    for split, measured in by_split.items():
        if measured:
            text += [f"## {split.capitalize()} tasks", _means(measured, subspace)]
    text += ["## Goals", _goals(by_split, subspace)]
    for split, measured in by_split.items():
        if measured:
            text += [f"## Each {split} task", _tasks(measured)]
    text += _nearest(path, subspace, families)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _methods(measured: Measured) -> list[str]:
    return list(dict.fromkeys(each.method for each in sorted(measured, key=lambda each: _order(each.method))))


def _order(method: str) -> tuple[int, str]:
    order = [ZERO, INSTRUCTION, IN_CONTEXT, RANDOM, IST, PT, LORA]
    return (order.index(method) if method in order else order.index(IST), method)


def _means(measured: Measured, subspace: Subspace) -> str:
    lines = ["| method | tasks | score | token F1 | ROUGE-L | tokens read for an answer | numbers tuned | seconds |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for method in _methods(measured):
        own = of_method(measured, method)
        f1, rouge = (f"{100 * _mean_detail(own, score):.1f}" for score in TEXT_SCORES[1:])
        read = f"{_mean_detail(own, TOKENS_READ):.0f}"
        numbers = _numbers(method, own, subspace)
        tasks, seconds = len({each.task for each in own}), fmean(each.seconds for each in own)
        lines.append(
            f"| {method} | {tasks} | {cell(measured, method)} | {f1} | {rouge} | {read} | {numbers:,} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _mean_detail(measured: Measured, name: str) -> float:
    """Return the mean of a detail over tasks, and within a task over draws."""
    by_task: dict[str, list[float]] = {}
    for each in measured:
        by_task.setdefault(each.task, []).append(float(each.detail[name] or 0.0))
    return fmean(map(fmean, by_task.values()))


def _numbers(method: str, measured: Measured, subspace: Subspace) -> int:
    if method in (ZERO, IN_CONTEXT, INSTRUCTION):
        return 0
    if method == PT:
        return subspace.prompt_length * subspace.hidden_size
    if method == LORA:
        return int(_mean_detail(measured, NUMBERS))
    return subspace.intrinsic_dim if method in (IST, RANDOM) else int(method.rpartition(" ")[2])


def _goals(by_split: Mapping[str, Measured], subspace: Subspace) -> str:
    lines = ["| what | measured | goal | met |", "| --- | --- | --- | --- |"]
    for split, goal in (("seen", 1.0), ("unseen", 0.9)):
        point = mean_e_rel(by_split.get(split, []))
        met = None if point is None else point[0] >= goal
        lines.append(_goal(f"E_rel, {split} tasks", with_spread(point, ".3f"), f"≥ {goal}", met))
    unseen = by_split.get("unseen", [])
    ten = of_dimension(10)
    for method, least, what in (
        (ZERO, 5.0, "above the zero vector"),
        (ten, 3.0, f"D = {subspace.intrinsic_dim} above D = 10"),
        (IN_CONTEXT, 0.0, "above the examples in context"),
        (LORA, -5.0, "above LoRA"),
        (RANDOM, None, "above a random subspace"),
    ):
        difference = _difference(unseen, method)
        met = None if difference is None or least is None else difference >= least
        shown = "–" if difference is None else f"{difference:+.1f} points"
        lines.append(_goal(f"IST {what}, unseen tasks", shown, "–" if least is None else f"≥ {least:+.0f}", met))
    read = [
        _mean_detail(of_method(unseen, method), TOKENS_READ) for method in (IST, IN_CONTEXT) if _has(unseen, method)
    ]
    if len(read) == 2:
        share = read[0] / read[1]
        lines.append(_goal("tokens read, IST to the examples in context", f"{share:.2f}", "≤ 0.10", share <= 0.1))
    return "\n".join(lines)


def _goal(what: str, measured: str, goal: str, met: bool | None) -> str:
    return f"| {what} | {measured} | {goal} | {'–' if met is None else 'yes' if met else '**no**'} |"


def _has(measured: Measured, method: str) -> bool:
    return any(each.method == method for each in measured)


def _difference(measured: Measured, method: str) -> float | None:
    """Return how many points IST is above a method on the tasks and draws that both have."""
    ist, other = on_common_draws([of_method(measured, IST), of_method(measured, method)])
    if not ist:
        return None
    return 100 * (_mean_of_tasks(ist) - _mean_of_tasks(other))


def _mean_of_tasks(measured: Measured) -> float:
    by_task: dict[str, list[float]] = {}
    for each in measured:
        by_task.setdefault(each.task, []).append(each.score)
    return fmean(map(fmean, by_task.values()))


def _tasks(measured: Measured) -> str:
    methods = _methods(measured)
    lines = [f"| task | {' | '.join(methods)} |", f"| --- |{' --- |' * len(methods)}"]
    for task in sorted({each.task for each in measured}):
        own = [each for each in measured if each.task == task]
        lines.append(f"| {task} | {' | '.join(cell(own, method) for method in methods)} |")
    return "\n".join(lines)


def _nearest(path: Path, subspace: Subspace, families: Mapping[str, str]) -> list[str]:
    """Return the section on task vectors: those that were tuned for it, or those of the fit of the subspace."""
    tuned = read_vectors(path.with_suffix("") / VECTORS.name, subspace.id)
    names, vectors = tuned.names, tuned.vectors
    if not names and subspace.task_vectors is not None:
        names = [str(name) for name in subspace.manifest["training"].get("tasks", [])]
        vectors = subspace.task_vectors.double().numpy()
    if len(names) < 3:
        return []
    plots.check_installed()
    of_tasks = [families.get(name, name) for name in names]
    cosines = geometry.cosine_similarities(vectors)
    within, between = geometry.within_and_between(cosines, of_tasks)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    plots.plot_map(folder / "map.png", *geometry.principal_components(vectors), names, of_tasks)
    plots.plot_similarities(folder / "similarities.png", cosines, names, of_tasks)
    accuracy, chance, count = nearest_family(cosines, of_tasks)
    shown = [f"{value:.2f}" if value is not None else "–" for value in (within, between)]
    summary = (
        f"Of {count} tasks of a family with several, the nearest other task is of the same family in "
        f"{100 * accuracy:.0f} % (by chance: {100 * chance:.0f} %). Mean cosine within a family {shown[0]}, between "
        f"families {shown[1]}."
    )
    return [
        "## Nearest tasks",
        summary,
        f"![Map of the task vectors]({folder.name}/map.png)",
        f"![Similarities of the task vectors]({folder.name}/similarities.png)",
    ]


def nearest_family(cosines: geometry.Matrix, families: Sequence[str]) -> tuple[float, float, int]:
    """Return in which share of tasks the nearest other one is of its family, the share by chance, and of how many."""
    others = cosines.copy()
    np.fill_diagonal(others, -np.inf)
    shared = [number for number, family in enumerate(families) if families.count(family) > 1]
    if not shared:
        return 0.0, 0.0, 0
    right = [families[int(others[number].argmax())] == families[number] for number in shared]
    chance = [(families.count(families[number]) - 1) / (len(families) - 1) for number in shared]
    return fmean(right), fmean(chance), len(shared)
