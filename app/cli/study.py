"""`ipt subspace study`: how good subspaces of several dimensions are, in one report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import LARGEST_DIM, AsJson, BackboneName, Device, FirstSeed, Revision, Tasks, those_given
from app.cli.origin import origin_of_fit
from app.cli.output import CliError, check_folder, notices, print_json, results

if TYPE_CHECKING:
    from ipt.evaluation.study.findings import Findings


def study(
    tasks: Tasks,
    output: Annotated[Path, typer.Argument(help="Folder of report, plots, subspaces, measurements.", metavar="OUTPUT")],
    dimensions: Annotated[str, typer.Option(help="Dimensions of the subspaces.")] = "5,10,50,100,250",
    subspace: Annotated[
        list[str] | None, typer.Option(help="One that is there, for its dimension; may be given several times.")
    ] = None,
    backbone: BackboneName = "default",
    revision: Revision = None,
    device: Device = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of examples.", min=1, max=10_000)] = 3,
    slow_seeds: Annotated[
        int | None,
        typer.Option(
            help="Draws for what takes long: SetFit, PT, random, the curve, ablations.", min=1, show_default="all"
        ),
    ] = None,
    first_seed: FirstSeed = 100,
    per_label: Annotated[int, typer.Option(help="Examples of each label that are tuned on.", min=2)] = 16,
    curve: Annotated[str, typer.Option(help="Examples of each label to compare; '' for none.")] = "1,4,8,16,64",
    seen_tasks: Annotated[int, typer.Option(help="Most seen tasks that are measured.", min=1)] = 20,
    unseen_tasks: Annotated[int, typer.Option(help="Most unseen tasks that are measured.", min=1)] = 100,
    test_rows: Annotated[int, typer.Option(help="Most test rows of a task that are scored.", min=1)] = 500,
    fit_steps: Annotated[int | None, typer.Option(help="Optimizer steps of each fit.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in the subspace; the service's without it.", min=1)] = None,
    pt_steps: Annotated[int, typer.Option(help="Steps of plain prompt tuning, at three rates.", min=1)] = 200,
    ablation: Annotated[
        list[str] | None,
        typer.Option(help="Compare also: start, readout, tasks, prompt-length, placement, finding; several times."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find subspaces of several dimensions, measure all of them against all baselines, and write one report.

    TASKS has an index.json that says which tasks are seen (the subspaces are found from them) and which unseen.
    Stopped or killed, the same command goes on where it was.

    \b
    ipt subspace study tasks/ study/
    ipt subspace study tasks/ short/ --dimensions 250 --subspace default --seeds 1 --unseen-tasks 4 --seen-tasks 2
    """
    import ipt
    from app.cli.progress import progress
    from ipt.backbones.loading import load_in_dedicated_process
    from ipt.data.task_dataset import row_notes
    from ipt.data.task_folder import read_task_folder
    from ipt.evaluation.methods import METHODS
    from ipt.evaluation.protocol import EvaluationOptions
    from ipt.evaluation.setfit import is_installed
    from ipt.evaluation.study.ablations import ABLATIONS
    from ipt.evaluation.study.findings import StudyOptions
    from ipt.evaluation.study.plots import check_installed
    from ipt.evaluation.study.report import write_report
    from ipt.evaluation.study.run import Study
    from ipt.fitting.direct_fit import FitOptions

    for name, given, known in (("method", method, METHODS), ("ablation", ablation, ABLATIONS)):
        if unknown := set(given or ()) - set(known):
            raise CliError(f"there is no {name} {min(unknown)!r}; there are {', '.join(known)}")
    check_installed()
    check_folder(output)
    without = {"IST then PT"} if is_installed() else {"IST then PT", "SetFit"}
    options = StudyOptions(
        dimensions=_numbers("--dimensions", dimensions, LARGEST_DIM),
        methods=tuple(dict.fromkeys(method or ()) or (name for name in METHODS if name not in without)),
        seeds=tuple(range(first_seed, first_seed + seeds)),
        slow_seeds=slow_seeds,
        seen_tasks=seen_tasks,
        unseen_tasks=unseen_tasks,
        curve=_numbers("--curve", curve, 10_000) if curve else (),
        ablations=tuple(ablation or ()),
        fit=FitOptions(**those_given(steps=fit_steps)),
        evaluation=EvaluationOptions(
            per_label=per_label,
            test_rows=test_rows,
            hyperparameters=ipt.Hyperparameters(**those_given(steps=steps)),
            pt_steps=pt_steps,
        ),
    )
    seen, unseen = (read_task_folder(tasks, split) for split in ("seen", "unseen"))
    notes = [*dict.fromkeys([*seen.skipped, *unseen.skipped]), *row_notes([*seen.tasks, *unseen.tasks])]
    loaded = load_in_dedicated_process(backbone, revision, device)
    given_subspaces = [ipt.load_subspace(one, loaded) for one in subspace or ()]
    for one in given_subspaces:
        if one.intrinsic_dim not in options.dimensions:
            raise CliError(f"subspace {one.id} has dimension {one.intrinsic_dim}, which --dimensions does not name")
    report = output / "report.md"
    with progress(notices()) as show:

        def on_part(findings: "Findings") -> None:
            write_report(report, output / "plots", findings, options, notes)

        running = Study(
            loaded, seen.tasks, unseen.tasks, given_subspaces, output, options, show, origin=origin_of_fit(seen.tasks)
        )
        try:
            running.run(on_part)
        except KeyboardInterrupt:
            if running.findings.measured:
                on_part(running.findings)
                notices().print(f"what there is so far is in {report}", soft_wrap=True)
            notices().print("stopped; the same command goes on where it was")
            raise typer.Exit(130) from None
    if as_json:
        print_json({"report": str(report)})
    else:
        results().print(f"written to {report}", soft_wrap=True)


def _numbers(option: str, text: str, largest: int) -> tuple[int, ...]:
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = [0]
    if numbers[0] < 1 or numbers[-1] > largest:
        raise CliError(f"{option} takes numbers from 1 to {largest} with commas between them, got {text[:100]!r}")
    return tuple(numbers)
