"""Accuracy on unseen tasks, against class names and logistic regression on the same frozen embeddings.

    python -m benchmarks.quality TASKS [--seeds 3] [--per-label 16]

TASKS is a folder of JSONL tasks with an index.json that marks the unseen ones. Everything goes through the public
Python API: `ipt.adapt` on the examples drawn from a task's train rows by a seed, `ipt.Predictor` on all its test rows.
Finished (task, seed) pairs are kept in a file, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from sklearn.linear_model import LogisticRegression

import ipt
from benchmarks.machine import ROOT, provenance
from ipt.backbones.encoder import EncoderBackbone
from ipt.examples import labels_of
from ipt.task_folder import FolderTask, read_task_folder, sample_per_label

METHODS = ("class names", "logistic regression", "ours")
FIRST_SEED = 100  # the fit of the subspace used seed 0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks, with index.json")
    parser.add_argument("--subspace", default="default", help="'default' or a subspace's folder")
    parser.add_argument("--only", nargs="*", help="names of tasks; all unseen ones without it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-label", type=int, default=16)
    parser.add_argument("--steps", type=int, help="another number of steps than the default")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "quality.jsonl", help="finished pairs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results.md")
    asked = parser.parse_args(arguments)

    backbone = ipt.load_backbone()
    assert isinstance(backbone, EncoderBackbone)
    subspace = ipt.load_subspace(asked.subspace, backbone)
    tasks = [t for t in read_task_folder(asked.tasks, "unseen") if not asked.only or t.name in asked.only]
    hyperparameters = ipt.Hyperparameters() if asked.steps is None else ipt.Hyperparameters(steps=asked.steps)
    identity = {"subspace": subspace.id, "per_label": asked.per_label, "steps": hyperparameters.steps}
    rows = [row for row in _read(asked.work) if all(row[key] == value for key, value in identity.items())]
    done = {(row["task"], row["seed"]) for row in rows}
    pairs = [(task, FIRST_SEED + n) for n in range(asked.seeds) for task in tasks]
    for task, seed in track([p for p in pairs if (p[0].name, p[1]) not in done], description="measuring"):
        row = identity | measure(backbone, subspace, task, seed, asked.per_label, hyperparameters)
        rows.append(row)
        asked.work.parent.mkdir(parents=True, exist_ok=True)
        with asked.work.open("a") as file:
            file.write(json.dumps(row) + "\n")
    wanted = {(task.name, seed) for task, seed in pairs}
    report = render([row for row in rows if (row["task"], row["seed"]) in wanted], asked.per_label, asked.seeds)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(report)
    print(report)


def measure(
    backbone: EncoderBackbone,
    subspace: ipt.Subspace,
    task: FolderTask,
    seed: int,
    per_label: int,
    hyperparameters: ipt.Hyperparameters,
) -> dict[str, Any]:
    """Test accuracy of every method on one task with one draw of examples."""
    examples = sample_per_label(task.train, per_label, seed)
    labels = labels_of(examples)
    wanted = [example.output for example in task.test]
    with torch.inference_mode():
        train = _embed(backbone, [example.input for example in examples])
        test = _embed(backbone, [example.input for example in task.test])
        names = _embed(backbone, labels)
    by_names = [labels[i] for i in (test @ names.T).argmax(dim=1).tolist()]
    classifier = LogisticRegression(max_iter=2000).fit(train.numpy(), [example.output for example in examples])
    by_regression = classifier.predict(test.numpy()).tolist()

    started = time.perf_counter()
    adapted = ipt.adapt(backbone, subspace, examples, hyperparameters=hyperparameters)
    seconds = time.perf_counter() - started
    predictor = ipt.Predictor(backbone, subspace)
    bound = predictor.bind(ipt.head_of(adapted))
    answers = predictor.predict([(bound, example.input) for example in task.test])
    ours = [answer.label for answer in answers]
    accuracy = {
        name: sum(a == b for a, b in zip(predicted, wanted, strict=True)) / len(wanted)
        for name, predicted in zip(METHODS, (by_names, by_regression, ours), strict=True)
    }
    return {
        "task": task.name, "family": task.family, "seed": seed, "accuracy": accuracy,
        "reported": adapted.metrics, "warnings": adapted.warnings, "seconds": seconds,
    }  # fmt: skip


def render(rows: list[dict[str, Any]], per_label: int, seeds: int) -> str:
    """The Markdown page."""
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(row)
    table = [
        "| task | " + " | ".join(METHODS) + " | ours − logistic regression | sd over seeds |",
        "| --- |" + " ---: |" * 5,
    ]
    for name, measured in sorted(by_task.items()):
        means = {method: _mean(measured, method) for method in METHODS}
        ours = [row["accuracy"]["ours"] for row in measured]
        spread = statistics.stdev(ours) if len(ours) > 1 else 0.0
        gain = means["ours"] - means["logistic regression"]
        cells = [f"{100 * means[method]:.1f}" for method in METHODS]
        table.append(f"| {name} | " + " | ".join(cells) + f" | {100 * gain:+.1f} | {100 * spread:.1f} |")
    overall = {m: statistics.mean(_mean(measured, m) for measured in by_task.values()) for m in METHODS}
    gain = overall["ours"] - overall["logistic regression"]
    cells = [f"**{100 * overall[method]:.1f}**" for method in METHODS]
    table.append("| **mean** | " + " | ".join(cells) + f" | **{100 * gain:+.1f}** | |")
    seconds = [row["seconds"] for row in rows]
    command = f"python -m benchmarks.quality TASKS --seeds {seeds} --per-label {per_label}"
    description = (
        f"Test accuracy in per cent on {len(by_task)} tasks of domains that the subspace was not fitted on, {per_label}"
        f" examples a label, mean over {seeds} draws of the examples. Subspace `{rows[0]['subspace']}`, "
        f"{rows[0]['steps']} steps. Class names: the nearest label name by frozen embedding. Logistic regression: "
        "scikit-learn's defaults on frozen embeddings. Ours: `ipt.adapt`, which sees the same examples and holds a "
        "quarter of them back to stop on."
    )
    times = (
        f"One adaptation took {statistics.median(seconds):.0f} s (median; {min(seconds):.0f} to {max(seconds):.0f})."
    )
    return "\n".join(["# Results", "", provenance(command), "", description, "", *table, "", times, ""])


def _mean(rows: list[dict[str, Any]], method: str) -> float:
    return statistics.mean(row["accuracy"][method] for row in rows)


def _embed(backbone: EncoderBackbone, texts: Sequence[str]) -> torch.Tensor:
    return backbone.embed(backbone.tokenize(texts), None).float().cpu()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
