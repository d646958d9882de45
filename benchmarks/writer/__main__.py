"""Subspaces of a model that writes, on real text tasks: against prompt tuning, in-context examples and LoRA.

    python -m benchmarks.writer TASKS [--subspace FOLDER] [--further FOLDER ...] [--seeds 3]

TASKS is a folder of tasks whose index.json has seen and unseen tasks. Writes docs/results-writer.md with plots, and a
JSON line for each task, method and draw in docs/results-writer/. Stored measurements are not repeated: a run may be
interrupted at any time, and then reports the results so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ipt
from app.cli.output import notices
from app.cli.progress import progress
from benchmarks.machine import ROOT, provenance
from benchmarks.writer import report
from benchmarks.writer.context import InContext, Instruction
from benchmarks.writer.draws import TextDraw
from benchmarks.writer.lora import Lora
from ipt.backbones.interface import TextBackbone
from ipt.data.task_dataset import TaskDataset, rows_hash
from ipt.data.task_files import INDEX_FILE, read_index
from ipt.data.task_folder import read_task_folder
from ipt.errors import IptError
from ipt.evaluation.evaluation import DRAWS_TOGETHER_ON_GPU, Evaluation
from ipt.evaluation.measured_tasks import measurable_tasks, without_fitted_rows
from ipt.evaluation.measurement_file import MeasurementFile
from ipt.evaluation.methods import method_named
from ipt.evaluation.protocol import EvaluationOptions, Method
from ipt.evaluation.study.task_selection import spread_over_families
from ipt.evaluation.tuned_methods import SubspaceTuning

SEEDS = range(100, 200)
"""Seeds of the draws, as in the other benchmarks; fits use seed 0."""
REPORT = ROOT / "docs" / "results-writer.md"


@dataclass(frozen=True)
class Entry:
    """A method, what it is measured with, and what its measurements must share to be comparable."""

    method: Method
    evaluation: Evaluation
    identity: dict[str, object]


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    try:
        _run(args)
    except IptError as error:
        sys.exit(f"error: {error.message}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.writer", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks with index.json")
    parser.add_argument("--backbone", default="smollm2", help="name, folder or GGUF file of a backbone that writes")
    parser.add_argument("--subspace", default="default", help="'default', or the folder of a subspace")
    parser.add_argument("--further", nargs="*", default=[], metavar="FOLDER", help="subspaces of other dimensions")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these methods (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="number of draws of examples")
    parser.add_argument("--per-label", type=int, default=16, help="examples per label; twice as many of a text task")
    parser.add_argument("--test-rows", type=int, default=250, help="most test rows of a task")
    parser.add_argument("--unseen-tasks", type=int, metavar="N", help="at most N unseen tasks, spread over families")
    parser.add_argument("--seen-tasks", type=int, default=20, metavar="N", help="at most N seen tasks, on other rows")
    parser.add_argument("--steps", type=int, help="most steps of IST (default: those of an adaptation)")
    parser.add_argument("--pt-steps", type=int, default=EvaluationOptions.pt_steps, help="steps of PT at each rate")
    parser.add_argument("--lora-steps", type=int, default=60, help="steps of LoRA at each rate")
    parser.add_argument("--context-tokens", type=int, default=1024, help="most tokens of the examples in context")
    parser.add_argument("--output", type=Path, default=REPORT, help="the page to write")
    parser.add_argument("--report", action="store_true", help="only write the page from stored measurements")
    parser.add_argument("--device", help="cpu, cuda, … (default: the best available device)")
    return parser


def _run(args: argparse.Namespace) -> None:
    backbone = ipt.load_backbone(args.backbone, device=args.device)
    if not isinstance(backbone, TextBackbone):
        raise IptError(f"backbone {args.backbone!r} is an encoder: name one that writes")
    subspace = ipt.load_subspace(args.subspace, backbone)
    defaults = ipt.Hyperparameters.defaults("text2text")
    hyperparameters = defaults if args.steps is None else replace(defaults, steps=args.steps)
    options = EvaluationOptions(args.per_label, args.test_rows, hyperparameters, args.pt_steps)
    index = read_index(args.tasks / INDEX_FILE)
    instructions = {name: str(entry["instruction"]) for name, entry in index.items() if "instruction" in entry}
    main_evaluation = Evaluation(backbone, subspace, options)
    entries = _entries(main_evaluation, instructions, args)
    for folder in args.further:
        further = Evaluation(backbone, ipt.load_subspace(folder, backbone), options)
        name = report.of_dimension(further.subspace.intrinsic_dim)
        entries.append(Entry(SubspaceTuning(name), further, further.identity("IST")))
    if args.methods:
        unknown = set(args.methods) - {entry.method.name for entry in entries}
        if unknown:
            raise IptError(f"unknown method {min(unknown)!r}; allowed: {', '.join(e.method.name for e in entries)}")
        entries = [entry for entry in entries if entry.method.name in args.methods]

    splits = {
        split: spread_over_families(_measurable(args, split, entries), limit)
        for split, limit in (("unseen", args.unseen_tasks), ("seen", args.seen_tasks))
    }
    if not any(splits.values()):
        raise IptError(f"no task of {args.tasks} can be measured with {args.per_label} examples per label; see above")
    identities = {entry.method.name: entry.identity for entry in entries}
    file = MeasurementFile(args.output.with_suffix("") / "measurements.jsonl", lambda name: identities.get(name, {}))
    if not args.report:
        _measure(entries, file, [task for tasks in splits.values() for task in tasks], SEEDS[: args.seeds])
    names = {split: [task.name for task in tasks] for split, tasks in splits.items()}
    families = {name: str(entry.get("family", name)) for name, entry in index.items()}
    report.write(args.output, provenance(_command(args)), main_evaluation, names, families, file.measurements)
    print(f"written to {args.output}")


def _command(args: argparse.Namespace) -> str:
    """Return the command that makes these measurements, with all settings that are not the defaults."""
    names = ("per_label", "seeds", "test_rows", "unseen_tasks", "seen_tasks", "steps", "pt_steps", "lora_steps")
    parser = _parser()
    changed = [name for name in names if getattr(args, name) != parser.get_default(name)]
    settings = [f"--{name.replace('_', '-')} {getattr(args, name)}" for name in changed]
    extra = f" WRITER_ARGS='{' '.join(settings)}'" if settings else ""
    return f"make bench-writer TASKS={args.tasks.name}{extra}"


def _entries(evaluation: Evaluation, instructions: dict[str, str], args: argparse.Namespace) -> list[Entry]:
    """Return the methods of the main subspace, the fast ones first."""
    subspace = evaluation.subspace
    of_subspace = [
        SubspaceTuning(report.ZERO, lambda space, _: space.initial_vectors.new_zeros(1, space.intrinsic_dim), steps=0),
        SubspaceTuning(report.IST),
    ]
    slow = [method_named("random"), method_named("PT")]
    entries = [Entry(method, evaluation, evaluation.identity(method.name)) for method in of_subspace]
    shape = {"subspace": f"{subspace.prompt_length} rows, {evaluation.backbone.prompt_placement}"}
    plain = evaluation.identity(report.PT) | {"subspace": None}
    free: list[tuple[Method, dict[str, object]]] = [
        (InContext(report.IN_CONTEXT, args.context_tokens), {"context_tokens": args.context_tokens}),
        (Lora(report.LORA, args.lora_steps), {"lora_steps": args.lora_steps}),
    ]
    if instructions:
        free.insert(0, (Instruction(report.INSTRUCTION, instructions), {}))
    entries += [Entry(method, evaluation, plain | extra) for method, extra in free]
    for method in slow:
        changes = shape if not method.uses_subspace else {}
        entries.append(Entry(method, evaluation, evaluation.identity(method.name) | changes))
    return entries


def _measurable(args: argparse.Namespace, split: str, entries: Sequence[Entry]) -> list[TaskDataset]:
    tasks = read_task_folder(args.tasks, split).tasks
    tasks, notes = without_fitted_rows(tasks, [entry.evaluation.subspace for entry in entries])
    measurable, faults = measurable_tasks(tasks, args.per_label, "causal")
    for note in (*notes, *faults):
        notices().print(note, soft_wrap=True)
    return measurable


def _measure(
    entries: Sequence[Entry], file: MeasurementFile, tasks: Sequence[TaskDataset], seeds: Sequence[int]
) -> None:
    """Add what is missing to the file; Ctrl-C ends it."""
    pairs = [(task, seed) for seed in seeds for task in tasks]
    rows = {task.name: rows_hash(task.train, task.test) for task in tasks}
    together = DRAWS_TOGETHER_ON_GPU if entries[0].evaluation.backbone.device.type == "cuda" else 1
    with progress(notices()) as show:
        try:
            for number in range(0, len(pairs), together):
                group = pairs[number : number + together]
                for entry in entries:
                    name, evaluation = entry.method.name, entry.evaluation
                    show("measuring", number, len(pairs), f", {group[0][0].name}, {name}")
                    missing = [pair for pair in group if not file.has(pair[0].name, pair[1], name, rows[pair[0].name])]
                    draws = [TextDraw(task, seed, evaluation) for task, seed in missing]
                    for measurement in entry.method.measure(evaluation, draws) if draws else ():
                        file.add(measurement)
        except KeyboardInterrupt:
            notices().print("stopped; the same command resumes")


if __name__ == "__main__":
    main()
