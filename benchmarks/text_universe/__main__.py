"""The text-to-text pipeline on a small BART that is pre-trained here: E_rel at several dimensions.

    python -m benchmarks.text_universe [--dims 5 10 50] [--processes 2]

The backbone learns list tasks that instruction words in front of the input describe. Then it is frozen, and inputs come
without the words: soft prompts of the seen tasks are tuned, subspaces are fitted in two ways, and with few examples of
seen and unseen tasks, tuning in a subspace (IST) is compared with plain prompt tuning (PT) and a random subspace. After
an interruption the same command resumes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import ipt
from benchmarks.machine import ROOT, provenance
from benchmarks.text_universe import pipeline, report
from benchmarks.text_universe.pretraining import PretrainingOptions, pretrain
from benchmarks.text_universe.tasks import GROUPS, UniverseTask, all_tasks, group_of
from benchmarks.text_universe.workers import Job, Workers, progress_bar
from ipt.evaluation.measurement_file import MeasurementFile

FIRST_SEED = 100  # fits use seed 0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_universe", description=__doc__.partition("\n")[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[5, 10, 50], help="intrinsic dimensions")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the training examples")
    parser.add_argument("--hidden-size", type=int, default=PretrainingOptions.hidden_size, help="of the backbone")
    parser.add_argument("--pretraining-steps", type=int, default=PretrainingOptions.steps)
    parser.add_argument("--fit-steps", type=int, default=800, help="steps of each fit")
    parser.add_argument("--tasks", type=int, default=4, help="most tasks to measure per group")
    parser.add_argument("--processes", type=int, default=2, help="processes, with one thread each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "text-universe", help="folder of stored results")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "text-universe.md")
    args = parser.parse_args(arguments)

    tasks = all_tasks()
    seen = [task for task in tasks if group_of(task) == "seen"]
    measured = [task for group in GROUPS for task in _some([t for t in tasks if group_of(t) == group], args.tasks)]
    options = PretrainingOptions(hidden_size=args.hidden_size, steps=args.pretraining_steps)
    work: Path = args.work / f"{options.hidden_size}_{options.steps}_{args.fit_steps}"
    backbone = work / "backbone"
    began, anew = time.perf_counter(), not work.exists()
    torch.set_num_threads(args.processes)
    with progress_bar() as bar:
        row = bar.add_task("pre-training", total=options.steps)
        pretrain(backbone, tasks, options, on_step=lambda done, _: bar.update(row, completed=done))
        bar.update(row, completed=options.steps)
    with Workers(args.processes, backbone) as workers:
        subspaces = _find(workers, seen, work, args.dims, args.fit_steps)
        seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
        measurements = _measure(workers, backbone, subspaces, measured, seeds)
    parameters = sum(weights.numel() for weights in ipt.load_backbone(str(backbone)).model.parameters())
    minutes = (time.perf_counter() - began) / 60
    duration = f"The whole run took {minutes:.0f} minutes." if anew else "The run resumed an interrupted one."
    origin = f"{provenance(_command(parser, args))} {duration}"
    report.write(args.output, origin, parameters, report.Scores(measurements, args.dims))
    print(args.output.read_text(encoding="utf-8"))


def _command(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Return the command that gives the same numbers, without paths and the number of processes."""
    words = ["python -m benchmarks.text_universe"]
    for name, value in vars(args).items():
        if name not in ("processes", "work", "output") and value != parser.get_default(name):
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def _some(tasks: Sequence[UniverseTask], most: int) -> list[UniverseTask]:
    """Return at most `most` tasks, evenly spread."""
    number = min(most, len(tasks))
    return [tasks[(2 * i + 1) * len(tasks) // (2 * number)] for i in range(number)]


def _find(
    workers: Workers, seen: Sequence[UniverseTask], work: Path, dims: Sequence[int], steps: int
) -> dict[str, Path]:
    """Tune prompts, fit all subspaces, and return their folders by way and dimension."""
    folders = {f"{way} {dim}": work / f"{way}_{dim}" for way in ("direct", "autoencoder") for dim in dims}
    tuning = Job(pipeline.tune, (seen, work), len(seen) * pipeline.PROMPTS.hyperparameters.steps)
    direct = [Job(pipeline.fit_directly, (seen, dim, steps, folders[f"direct {dim}"]), steps) for dim in dims]
    coded = [Job(pipeline.fit_autoencoder, (seen, dim, steps, folders[f"autoencoder {dim}"]), steps) for dim in dims]
    # The auto-encoders need the tuned prompts; the direct fits do not.
    list(workers.run("prompts, first fit", [tuning, direct[0]]))
    list(workers.run("fits", [*direct[1:], *coded]))
    return folders


def _measure(
    workers: Workers, backbone: Path, subspaces: dict[str, Path], tasks: Sequence[UniverseTask], seeds: Sequence[int]
) -> report.Measured:
    """Return all measurements by subspace; those that need none are under `report.WITHOUT`."""
    loaded = ipt.load_backbone(str(backbone), device="cpu")
    files = {}
    jobs = []
    for name, folder in {report.WITHOUT: None, **subspaces}.items():
        path = backbone.with_name(f"{name.replace(' ', '_')}.jsonl")
        files[name] = MeasurementFile(path, pipeline.identity(loaded, folder))
        if folder is None:
            methods = report.METHODS_WITHOUT
        else:
            methods = ("IST", "random", "zero vector") if name.startswith("direct") else ("IST",)
        for task in tasks:
            for seed in seeds:
                missing = [method for method in methods if not files[name].has(task.name, seed, method)]
                if missing:
                    jobs.append(Job(pipeline.measure, (name, folder, task, seed, missing), len(missing)))
    for name, measurements in workers.run("measuring", jobs):
        for measurement in measurements:
            files[name].add(measurement)
    names = {task.name for task in tasks}
    return {
        name: [each for each in file.measurements if each.task in names and each.seed in seeds]
        for name, file in files.items()
    }


if __name__ == "__main__":
    main()
