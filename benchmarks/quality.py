"""A study of the shipped subspace against prompt tuning, SetFit and baselines without tuning.

    python -m benchmarks.quality TASKS [--seeds 3] [--slow-seeds 3]
    python -m benchmarks.quality TASKS --fit-steps 1000 [--dimensions 5 50 250] [--ablations tasks finding]

TASKS is a folder of tasks whose index.json names the training tasks of the subspace. Writes docs/results.md, with plots
and all measurements in docs/results/. Stored measurements are not repeated: a run takes many hours on a CPU and minutes
on a GPU, may be interrupted at any time, and then reports the results so far.

With --fit-steps it fits subspaces of its own with that many steps: of several dimensions, on fewer tasks, with other
prompts, or as in the paper. It writes docs/ablations.md, with subspaces and measurements in docs/ablations/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ipt
from app.cli.output import notices
from app.cli.progress import progress
from benchmarks.engines.backbones import load_minilm
from benchmarks.machine import ROOT, provenance
from ipt.data.task_dataset import row_notes
from ipt.data.task_folder import read_task_folder
from ipt.errors import IptError
from ipt.evaluation.methods import METHODS
from ipt.evaluation.setfit import is_installed
from ipt.evaluation.study.ablations import ABLATIONS
from ipt.evaluation.study.findings import Findings
from ipt.evaluation.study.options import StudyOptions
from ipt.evaluation.study.report import write_report
from ipt.evaluation.study.run import Study
from ipt.fitting.direct_fit import FitOptions
from ipt.runtime.memory import keep_freed_memory
from ipt.runtime.threads import limit_cpu_threads

DOCS = ROOT / "docs"
WITHOUT_FITS = ("readout", "start")
"""The ablations that need no other subspaces."""
SEEDS = range(100, 200)
"""Seeds of the draws; fits use seed 0."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks, with index.json")
    parser.add_argument("--seeds", type=int, default=3, help="number of draws of examples")
    parser.add_argument("--slow-seeds", type=int, default=3, help="draws for slow measurements")
    parser.add_argument("--seen-tasks", type=int, default=20, help="most seen tasks to measure")
    parser.add_argument("--fit-steps", type=int, help="study subspaces fitted with this many steps")
    parser.add_argument("--dimensions", type=int, nargs="*", help="dimensions, with --fit-steps")
    parser.add_argument("--ablations", nargs="*", choices=ABLATIONS, help="only these ablations")
    parser.add_argument("--minilm", type=Path, help="folder of MiniLM, if its package is not installed")
    parser.add_argument("--report", action="store_true", help="only write the report from stored measurements")
    parser.add_argument("--device", help="cpu, cuda, … (default: the best available device)")
    args = parser.parse_args(arguments)
    if args.fit_steps is not None and args.fit_steps < 1:
        parser.error("--fit-steps must be at least 1")
    if args.fit_steps is None and (args.dimensions or set(args.ablations or ()) - set(WITHOUT_FITS)):
        parser.error("--dimensions, and all ablations except readout and start, need --fit-steps")

    keep_freed_memory()
    backbone = load_minilm(args.minilm, args.device)
    limit_cpu_threads(backbone.device)
    shipped = ipt.load_subspace("default", backbone)
    of_draws = StudyOptions(seeds=tuple(SEEDS[: args.seeds]), slow_seeds=args.slow_seeds, seen_tasks=args.seen_tasks)
    if args.fit_steps:
        name, subspaces, options = "ablations", [], _of_fits(of_draws, args)
        context = (
            f"All of these subspaces were fitted with {args.fit_steps:,} steps; the shipped one, with "
            f"{shipped.manifest['training']['options']['steps']:,}, is in [results.md](results.md)."
        )
    else:
        name, subspaces, options = "results", [shipped], _of_shipped(of_draws, args, shipped.intrinsic_dim)
        context = (
            "Other dimensions, fewer tasks, other prompts and the paper's way to fit a subspace are in "
            "[ablations.md](ablations.md)."
        )
    seen, unseen = (read_task_folder(args.tasks, split) for split in ("seen", "unseen"))
    notes = [*dict.fromkeys([*seen.skipped, *unseen.skipped]), *row_notes([*seen.tasks, *unseen.tasks])]
    peers = ["setfit"] if is_installed() and "SetFit" in options.methods else []
    origin = (
        f"{provenance(_command(args), *peers)} Measured in several runs on a busy machine: seconds are a rough guide."
    )

    def on_part(findings: Findings) -> None:
        paragraphs = [f"{origin} {_devices(findings)}", context]
        write_report(DOCS / f"{name}.md", DOCS / name, findings, options, notes, paragraphs)

    with progress(notices()) as show:
        folder = DOCS / name
        study = Study(backbone, seen.tasks, unseen.tasks, subspaces, folder, options, show, measuring=not args.report)
        try:
            study.run(on_part)
        except KeyboardInterrupt:
            if study.findings.measured:
                on_part(study.findings)
            notices().print("stopped; the same command resumes")
        except IptError as error:
            sys.exit(f"error: {error.message}")
    print(f"written to {DOCS / name}.md")


def _of_shipped(common: StudyOptions, args: argparse.Namespace, dimension: int) -> StudyOptions:
    left_out = () if args.report or is_installed() else ("SetFit",)
    return replace(
        common,
        dimensions=(dimension,),
        methods=tuple(method for method in METHODS if method not in left_out),
        ablations=WITHOUT_FITS if args.ablations is None else tuple(args.ablations),
    )


def _of_fits(common: StudyOptions, args: argparse.Namespace) -> StudyOptions:
    others = tuple(name for name in ABLATIONS if name not in WITHOUT_FITS)
    return replace(
        common,
        dimensions=tuple(sorted(set(args.dimensions or StudyOptions.dimensions))),
        methods=("logistic regression", "PT", "IST"),
        curve=(),
        ablations=others if args.ablations is None else tuple(args.ablations),
        fit=FitOptions(steps=args.fit_steps),
    )


def _command(args: argparse.Namespace) -> str:
    command = f"python -m benchmarks.quality TASKS --seeds {args.seeds} --slow-seeds {args.slow_seeds}"
    if args.fit_steps:
        command += f" --fit-steps {args.fit_steps}"
    for name, values in (("dimensions", args.dimensions), ("ablations", args.ablations)):
        if values is not None:
            command += f" --{name} {' '.join(map(str, values))}"
    return f"{command} --report" if args.report else command


def _devices(findings: Findings) -> str:
    """Return a sentence that lists the methods measured on each device."""
    on: dict[str, set[str]] = {}
    for measurement in findings.measured:
        on.setdefault(measurement.device or "cpu, float32", set()).add(measurement.method)
    parts = [f"on {device}: {', '.join(sorted(methods))}" for device, methods in sorted(on.items())]
    return f"Measured {'; '.join(parts)}."


if __name__ == "__main__":
    main()
