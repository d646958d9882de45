"""How good the shipped subspace is, against prompt tuning, SetFit and what needs no tuning, as a study of it.

    python -m benchmarks.quality TASKS [--seeds 3] [--slow-seeds 1] [--dimensions 5 50 250] [--ablations tasks start]

TASKS is a folder of tasks with an index.json that says which the subspace was found from. Writes docs/results.md, its
plots and every measurement in docs/results/. What is measured there already is not measured again: a run of this takes
many hours on a CPU and minutes on a GPU, so it may be stopped at any time, and reports what there is so far. Other
dimensions than the shipped one, and some ablations, find subspaces of their own first, which stay in docs/results/ too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import ipt
from app.cli.output import notices
from app.cli.progress import progress
from benchmarks.backbones import load_minilm
from benchmarks.machine import ROOT, provenance
from ipt.evaluation import METHODS
from ipt.setfit_baseline import is_installed
from ipt.study.report import write_report
from ipt.study.run import ABLATIONS, Findings, Study, StudyOptions
from ipt.task_folder import read_task_folder

PAGE = ROOT / "docs" / "results.md"
FOLDER = ROOT / "docs" / "results"
WITHOUT_FITS = ("readout", "start")
"""Those of the ablations that need no other subspaces."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks, with index.json")
    parser.add_argument("--seeds", type=int, default=3, help="draws of examples")
    parser.add_argument("--slow-seeds", type=int, default=1, help="of those, for what takes long")
    parser.add_argument("--seen-tasks", type=int, default=20, help="most seen tasks that are measured")
    parser.add_argument("--dimensions", type=int, nargs="*", default=[], help="further ones; each needs a fit")
    parser.add_argument("--ablations", nargs="*", choices=ABLATIONS, default=WITHOUT_FITS, help="which of them")
    parser.add_argument("--minilm", type=Path, help="MiniLM's folder, where its package is not installed")
    parser.add_argument("--report", action="store_true", help="measure nothing, report what there is")
    parser.add_argument("--device", help="cpu, cuda, …; the best there is without it")
    asked = parser.parse_args(arguments)

    backbone = load_minilm(asked.minilm, asked.device)
    subspace = ipt.load_subspace("default", backbone)
    options = StudyOptions(
        dimensions=tuple(sorted({subspace.intrinsic_dim, *asked.dimensions})),
        methods=tuple(
            method
            for method in METHODS
            if method != "IST then PT" and (method != "SetFit" or asked.report or is_installed())
        ),
        seeds=tuple(range(100, 100 + asked.seeds)),  # the fit of the subspace used seed 0
        slow_seeds=asked.slow_seeds,
        seen_tasks=asked.seen_tasks,
        ablations=tuple(asked.ablations),
    )
    left_out: list[str] = []
    seen, unseen = (read_task_folder(asked.tasks, split, left_out) for split in ("seen", "unseen"))
    notes = [*left_out, *(note for task in (*seen, *unseen) for note in task.notes)]
    command = f"python -m benchmarks.quality TASKS --seeds {asked.seeds} --slow-seeds {asked.slow_seeds}"
    for name, values in (("dimensions", asked.dimensions), ("ablations", [*asked.ablations])):
        if values and values != [*WITHOUT_FITS]:
            command += f" --{name} {' '.join(map(str, values))}"
    if asked.report:
        command += " --report"
    peers = ["setfit"] if is_installed() else []
    origin = f"{provenance(command, *peers)} Measured in several runs, beside other work: seconds are a rough guide."

    def on_part(findings: Findings) -> None:
        write_report(PAGE, FOLDER, findings, options, notes, [f"{origin} {_devices(findings)}"])

    with progress(notices()) as show:
        study = Study(backbone, seen, unseen, [subspace], FOLDER, options, show, measuring=not asked.report)
        try:
            study.run(on_part)
        except KeyboardInterrupt:
            on_part(study.findings)
            notices().print("stopped; the same command goes on where it was")
    print(f"written to {PAGE}")


def _devices(findings: Findings) -> str:
    """A sentence about what each method was measured on."""
    measured = [one for of_split in findings.splits.values() for found in of_split.values() for one in found]
    on: dict[str, set[str]] = {}
    for one in measured:
        on.setdefault(one.device or "cpu, float32", set()).add(one.method)
    parts = [f"on {device}: {', '.join(sorted(methods))}" for device, methods in sorted(on.items())]
    return f"Measured {'; '.join(parts)}."


if __name__ == "__main__":
    main()
