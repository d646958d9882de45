"""Whether `in_scope` tells texts of a task's domain from texts of other domains, against the highest score alone.

    python -m benchmarks.out_of_scope TASKS [--steps 0]

TASKS is a folder of tasks with index.json. Each task of CLINC150 with 16 examples of each label is asked its own test
rows, and as many texts of other domains: half of them rows of CLINC150 whose labels the task does not have, half rows
of other families. BANKING77 is left out, which is in the domain of some tasks, and the task whose labels are the
domains themselves. Writes docs/out-of-scope.md, or docs/out-of-scope-tuned.md of vectors that were tuned, and the
measurements next to it; a run may be interrupted, and the same command resumes it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np

import ipt
from benchmarks.engines.backbones import load_minilm
from benchmarks.machine import ROOT, provenance
from ipt.data.sampling import sample_per_label
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_folder import read_task_folder
from ipt.readout.scope import DIRECTIONS, SHRINKAGE

REPORT = ROOT / "docs" / "out-of-scope.md"
MEASUREMENTS = REPORT.with_suffix(".jsonl")
FAMILY, SAME_DOMAIN = "clinc", "banking"
DOMAINS = "clinc_domains"
PER_LABEL = 16
SEED = 100
ROWS = 120
"""Test rows of a task, and texts of other domains."""
KEPT = 0.95
Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.out_of_scope", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks with index.json")
    parser.add_argument("--steps", type=int, default=ipt.Hyperparameters().steps, help="most steps of tuning")
    args = parser.parse_args(arguments)
    backbone = load_minilm(None, None)
    subspace = ipt.load_subspace("default", backbone)
    tasks = [task for task in read_task_folder(args.tasks).tasks if task.name != DOMAINS]
    run = {"subspace": subspace.id, "steps": args.steps, "rows": ROWS, "distance": [SHRINKAGE, DIRECTIONS]}
    stored = _stored(run)
    for task in (task for task in tasks if task.family == FAMILY):
        if task.name not in stored:
            stored[task.name] = _measure(backbone, subspace, task, tasks, args.steps)
            with MEASUREMENTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": run, "task": task.name, **stored[task.name]}) + "\n")
            print(task.name, stored[task.name], flush=True)
        command = f"python -m benchmarks.out_of_scope TASKS --steps {args.steps}"
        report = REPORT if args.steps == 0 else REPORT.with_stem("out-of-scope-tuned")
        report.write_text(_report(stored, provenance(command), subspace.id), encoding="utf-8")


def _stored(run: dict[str, object]) -> dict[str, Figures]:
    """Return the figures of earlier runs with the same settings, by task; a torn line is ignored."""
    figures: dict[str, Figures] = {}
    for line in MEASUREMENTS.read_text(encoding="utf-8").splitlines() if MEASUREMENTS.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.pop("run") == run:
            figures[record.pop("task")] = record
    return figures


def texts_of_other_domains(task: TaskDataset, tasks: Sequence[TaskDataset]) -> list[str]:
    """Return `ROWS` texts, half of them of the task's family."""
    labels = {example.output for example in (*task.train, *task.test)}
    known = {example.input for example in (*task.train, *task.test)}
    near = {
        example.input
        for other in tasks
        if other.family == FAMILY and labels.isdisjoint(example.output for example in (*other.train, *other.test))
        for example in other.test
    }
    far = {example.input for other in tasks if other.family not in (FAMILY, SAME_DOMAIN) for example in other.test}
    rng = random.Random(SEED)
    halves = (rng.sample(sorted(texts - known), ROWS // 2) for texts in (near, far))
    return [text for half in halves for text in half]


def _measure(
    backbone: ipt.Backbone, subspace: ipt.Subspace, task: TaskDataset, tasks: Sequence[TaskDataset], steps: int
) -> Figures:
    examples = sample_per_label(task.train, PER_LABEL, SEED)
    adapted = ipt.adapt(backbone, subspace, examples, hyperparameters=ipt.Hyperparameters(steps=steps))
    predictor = ipt.Predictor(backbone, subspace)
    head = predictor.bind(adapted.head)
    test = random.Random(SEED).sample(task.test, min(ROWS, len(task.test)))
    inside = predictor.predict([(head, example.input) for example in test])
    outside = predictor.predict([(head, text) for text in texts_of_other_domains(task, tasks)])
    figures: Figures = {}
    for name, value in (("in_scope", _in_scope), ("max_softmax", _max_softmax)):
        kept, refused = (np.array([value(prediction) for prediction in rows]) for rows in (inside, outside))
        figures[f"{name}_auroc"] = round(auroc(kept, refused), 4)
        figures[f"{name}_refused"] = round(float((refused < np.quantile(kept, 1 - KEPT)).mean()), 4)
        if name == "in_scope":
            figures |= {"kept_at_half": round(float((kept >= 0.5).mean()), 4)}
            figures |= {"refused_at_half": round(float((refused < 0.5).mean()), 4)}
    return figures


def auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the probability that a positive value is above a negative one, counting ties half."""
    greater = (positives[:, None] > negatives[None]).mean()
    return float(greater + 0.5 * (positives[:, None] == negatives[None]).mean())


def _in_scope(prediction: ipt.Prediction) -> float:
    assert prediction.in_scope is not None
    return prediction.in_scope


def _max_softmax(prediction: ipt.Prediction) -> float:
    return max((prediction.scores or {}).values())


def _report(figures: dict[str, Figures], origin: str, subspace_id: str) -> str:
    setting = (
        f"{origin} Subspace `{subspace_id}`, {PER_LABEL} examples per label, {ROWS} test rows of each task and {ROWS} "
        "texts of other domains. *AUROC*: how often a test row gets a higher value than a text of another domain. "
        f"*Refused*: the texts of other domains that are refused if {KEPT:.0%} of the test rows are kept. *At 0.5*: "
        "the test rows that are kept, and the texts that are refused, with `min_in_scope` 0.5."
    )
    lines = ["# Texts that belong to no label", setting]
    margins = {task: each["in_scope_auroc"] - each["max_softmax_auroc"] for task, each in figures.items()}
    worst = min(margins, key=margins.__getitem__)
    means = {name: mean(each[name] for each in figures.values()) for name in next(iter(figures.values()))}
    lines.append(
        f"Mean of {len(figures)} tasks: AUROC **{means['in_scope_auroc']:.3f}** with `in_scope`, "
        f"{means['max_softmax_auroc']:.3f} with the highest score; refused **{means['in_scope_refused']:.0%}** and "
        f"{means['max_softmax_refused']:.0%}. Smallest gain in AUROC: {margins[worst]:+.3f} ({worst}). At 0.5, "
        f"{means['kept_at_half']:.0%} of the test rows are kept and {means['refused_at_half']:.0%} of the other texts "
        "are refused."
    )
    table = ["| task | AUROC | of the highest score | refused | by the highest score | kept, refused at 0.5 |"]
    table.append("| --- | --- | --- | --- | --- | --- |")
    table += [
        f"| {task} | {each['in_scope_auroc']:.3f} | {each['max_softmax_auroc']:.3f} | {each['in_scope_refused']:.0%} | "
        f"{each['max_softmax_refused']:.0%} | {each['kept_at_half']:.0%}, {each['refused_at_half']:.0%} |"
        for task, each in sorted(figures.items())
    ]
    return "\n\n".join([*lines, "\n".join(table)]) + "\n"


if __name__ == "__main__":
    main()
