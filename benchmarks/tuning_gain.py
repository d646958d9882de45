"""What tuning adds, task by task: a plain classifier, the start of tuning, and the tuned vector.

    python -m benchmarks.tuning_gain TASKS... [--seeds 3]

TASKS are folders of tasks whose index.json names unseen tasks. Writes docs/tuning-gain.md with a plot, and all
measurements in docs/tuning-gain/. Stored measurements are not repeated: a run may be interrupted at any time, and then
reports the results so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import ipt
from app.cli.output import notices
from app.cli.progress import progress
from benchmarks.engines.backbones import load_minilm
from benchmarks.machine import ROOT, provenance
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_folder import read_task_folder
from ipt.errors import IptError
from ipt.evaluation.evaluation import Evaluation, measure_missing
from ipt.evaluation.measurement_file import MeasurementFile
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.protocol import EvaluationOptions
from ipt.evaluation.study import plots
from ipt.fitting.fit_rows import fault_of_task

BASELINE, START, TUNED = METHODS = ("logistic regression", "start", "IST")
REPORT = ROOT / "docs" / "tuning-gain.md"
SEEDS = range(100, 200)
"""Seeds of the draws, as in `benchmarks.quality`."""
Scores = dict[str, float]
"""Accuracy of each method, in per cent, averaged over the draws that all methods have."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning_gain", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, nargs="+", help="folders of tasks, each with index.json")
    parser.add_argument("--seeds", type=int, default=3, help="number of draws of examples")
    parser.add_argument("--per-label", type=int, default=16, help="examples per label")
    parser.add_argument("--test-rows", type=int, default=250, help="most test rows of a task")
    parser.add_argument("--subspace", default="default", help="'default', or the folder of a subspace")
    parser.add_argument("--report", action="store_true", help="only write the report from stored measurements")
    parser.add_argument("--device", help="cpu, cuda, … (default: the best available device)")
    args = parser.parse_args(arguments)

    backbone = load_minilm(None, args.device)
    subspace = ipt.load_subspace(args.subspace, backbone)
    options = EvaluationOptions(per_label=args.per_label, test_rows=args.test_rows)
    evaluation = Evaluation(backbone, subspace, options)
    suites: dict[str, list[TaskDataset]] = {}
    for folder in args.tasks:
        unseen = read_task_folder(folder, "unseen").tasks
        suites[folder.name] = [task for task in unseen if fault_of_task(backbone, task, args.per_label) is None]
    tasks = [task for suite in suites.values() for task in suite]
    file = MeasurementFile(REPORT.with_suffix("") / "measurements.jsonl", evaluation.identity)
    seeds = SEEDS[: args.seeds]
    with progress(notices()) as show:

        def on_pair(done: int, total: int, name: str) -> None:
            show("measuring", done, total, f", {name}")

        try:
            list(measure_missing(evaluation, file, tasks, seeds, METHODS, on_pair, only_kept=args.report))
        except KeyboardInterrupt:
            notices().print("stopped; the same command resumes")
        except IptError as error:
            sys.exit(f"error: {error.message}")
    names = {task.name for task in tasks}
    measured = [each for each in file.measurements if each.task in names and each.seed in seeds]
    if measured:
        command = f"python -m benchmarks.tuning_gain TASKS… --seeds {args.seeds}"
        _write(suites, measured, provenance(command), subspace.id, args.per_label)
        print(f"written to {REPORT}")


def _write(
    suites: dict[str, list[TaskDataset]], measured: Sequence[Measurement], origin: str, subspace_id: str, per_label: int
) -> None:
    """Write the report and its plot."""
    scores = _scores(measured)
    draws = len({each.seed for each in measured})
    setting = (
        f"{origin} Subspace `{subspace_id}`, {per_label} examples per label, {draws} draws of examples. Accuracy on "
        "test rows, in per cent. *Start*: the likeliest initial vector, untuned. *Tuned*: the vector after tuning. "
        "Both use the readout whose weight is measured on the task."
    )
    text = ["# What tuning adds", setting]
    for suite, tasks in suites.items():
        of_suite = {task.name: scores[task.name] for task in tasks if task.name in scores}
        if of_suite:
            text += [f"## Unseen tasks of `{suite}`", _summary(of_suite), _table(of_suite)]
    plots.check_installed()
    plot = REPORT.with_suffix("") / "tasks.png"
    by_method = {method: {task: of_task[method] for task, of_task in scores.items()} for method in METHODS}
    plots.plot_tasks(plot, by_method, {each.task: each.family for each in measured})
    text.append(f"![Accuracy of each task]({plot.relative_to(REPORT.parent)})")
    REPORT.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _scores(measured: Sequence[Measurement]) -> dict[str, Scores]:
    """Return the scores of each task, over the draws that every method has."""
    by_task: dict[str, dict[str, dict[int, float]]] = {}
    for each in measured:
        by_task.setdefault(each.task, {}).setdefault(each.method, {})[each.seed] = 100.0 * each.score
    scores = {}
    for task, of_method in sorted(by_task.items()):
        draws = set.intersection(*(set(of_method.get(method, {})) for method in METHODS))
        if draws:
            scores[task] = {method: mean(of_method[method][draw] for draw in draws) for method in METHODS}
    return scores


def _summary(scores: dict[str, Scores]) -> str:
    over_baseline = {task: of_task[TUNED] - of_task[BASELINE] for task, of_task in scores.items()}
    worst = min(over_baseline, key=over_baseline.__getitem__)
    by_tuning = mean(of_task[TUNED] - of_task[START] for of_task in scores.values())
    moved = sum(of_task[TUNED] != of_task[START] for of_task in scores.values())
    return (
        f"Mean of {len(scores)} tasks: logistic regression {mean(s[BASELINE] for s in scores.values()):.1f}, start "
        f"{mean(s[START] for s in scores.values()):.1f}, tuned {mean(s[TUNED] for s in scores.values()):.1f}: "
        f"**{mean(over_baseline.values()):+.1f}** over logistic regression (worst task: {worst}, "
        f"{over_baseline[worst]:+.1f}), **{by_tuning:+.1f}** by tuning, which changes the score of {moved} tasks."
    )


def _table(scores: dict[str, Scores]) -> str:
    lines = ["| task | logistic regression | start | tuned | over logistic regression | by tuning |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for task, of_task in scores.items():
        baseline, start, tuned = (of_task[method] for method in METHODS)
        lines.append(
            f"| {task} | {baseline:.1f} | {start:.1f} | {tuned:.1f} | {tuned - baseline:+.1f} | {tuned - start:+.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
