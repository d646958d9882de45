"""Tune the vectors of tasks of shared families, for the section on nearest tasks of docs/results-writer.md.

    python -m benchmarks.writer.vectors TASKS [--families 8] [--tasks 3] [--steps 20]

TASKS is a folder of tasks with index.json. Stored vectors are not tuned again: a run may be interrupted at any time.
`python -m benchmarks.writer TASKS --report` shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import ipt
from app.cli.output import notices
from app.cli.progress import progress
from benchmarks.machine import ROOT
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_folder import read_task_folder
from ipt.evaluation.evaluation import Evaluation
from ipt.evaluation.measured_tasks import measurable_tasks
from ipt.evaluation.protocol import Draw, EvaluationOptions
from ipt.evaluation.study.geometry import Matrix
from ipt.evaluation.tuned_methods import SubspaceTuning

VECTORS = ROOT / "docs" / "results-writer" / "vectors.jsonl"
SEED = 100


@dataclass(frozen=True)
class TaskVectors:
    """Tuned vectors [N, D] of tasks, with their families."""

    names: list[str]
    families: list[str]
    vectors: Matrix


def read_vectors(path: Path, subspace_id: str) -> TaskVectors:
    """Return the vectors of a subspace that a file has, none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["subspace"] == subspace_id]
    vectors = np.array([row["vector"] for row in rows], dtype=np.float64)
    return TaskVectors([row["task"] for row in rows], [row["family"] for row in rows], vectors)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.writer.vectors", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks with index.json")
    parser.add_argument("--backbone", default="smollm2", help="name, folder or GGUF file of a backbone that writes")
    parser.add_argument("--subspace", default="default", help="'default', or the folder of a subspace")
    parser.add_argument("--families", type=int, default=8, help="at most this many families, the largest first")
    parser.add_argument("--tasks-of-family", type=int, default=3, help="tasks of each family")
    parser.add_argument("--per-label", type=int, default=16, help="examples per label; twice as many of a text task")
    parser.add_argument("--steps", type=int, default=20, help="steps of tuning")
    parser.add_argument("--output", type=Path, default=VECTORS, help="the file of the vectors")
    parser.add_argument("--device", help="cpu, cuda, … (default: the best available device)")
    args = parser.parse_args(arguments)
    backbone = ipt.load_backbone(args.backbone, device=args.device)
    subspace = ipt.load_subspace(args.subspace, backbone)
    hyperparameters = replace(ipt.Hyperparameters.defaults("text2text"), steps=args.steps)
    evaluation = Evaluation(backbone, subspace, EvaluationOptions(args.per_label, 1, hyperparameters))
    tasks, _ = measurable_tasks(read_task_folder(args.tasks, None).tasks, args.per_label, "causal")
    chosen = of_shared_families(tasks, args.families, args.tasks_of_family)
    known = set(read_vectors(args.output, subspace.id).names)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with progress(notices()) as show, args.output.open("a", encoding="utf-8") as file:
        for number, task in enumerate(chosen):
            show("tuning", number, len(chosen), f", {task.name}")
            if task.name in known:
                continue
            [(_, tuned)] = SubspaceTuning("IST").tune(evaluation, [Draw(task, SEED, evaluation)])
            vector = [round(float(value), 5) for value in tuned.head.vector]
            row = {"subspace": subspace.id, "task": task.name, "family": task.family, "steps": args.steps}
            file.write(json.dumps(row | {"vector": vector}) + "\n")
            file.flush()


def of_shared_families(tasks: Sequence[TaskDataset], families: int, of_family: int) -> list[TaskDataset]:
    """Return the first tasks of the largest families, which have at least two."""
    members: dict[str, list[TaskDataset]] = {}
    for task in tasks:
        members.setdefault(task.family, []).append(task)
    shared = sorted((each for each in members.values() if len(each) > 1), key=len, reverse=True)
    return [task for each in shared[:families] for task in each[:of_family]]


if __name__ == "__main__":
    main()
