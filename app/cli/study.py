"""`ipt subspace study`: fit subspaces of several dimensions and compare them in one report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import LARGEST_DIM, AsJson, BackboneName, Device, FirstSeed, Revision, Tasks, without_none
from app.cli.origin import origin_of_fit
from app.cli.output import CliError, check_folder, notices, print_json, results

if TYPE_CHECKING:
    from ipt.evaluation.study.findings import Findings


def study(
    tasks: Tasks,
    output: Annotated[
        Path, typer.Argument(help="Folder for report, plots, subspaces, measurements.", metavar="OUTPUT")
    ],
    dimensions: Annotated[str, typer.Option(help="Dimensions, separated by commas.")] = "5,10,50,100,250",
    subspace: Annotated[
        list[str] | None, typer.Option(help="Use this subspace for its dimension; repeat for several.")
    ] = None,
    backbone: BackboneName = "default",
    revision: Revision = None,
    device: Device = None,
    method: Annotated[list[str] | None, typer.Option(help="Measure only this method; repeat for several.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of draws of examples.", min=1, max=10_000)] = 3,
    slow_seeds: Annotated[
        int | None,
        typer.Option(
            help="Draws for slow measurements: SetFit, PT, random, curve, ablations.", min=1, show_default="all"
        ),
    ] = None,
    first_seed: FirstSeed = 100,
    per_label: Annotated[int, typer.Option(help="Training examples per label.", min=2)] = 16,
    curve: Annotated[str, typer.Option(help="Numbers of examples per label to compare; '' for none.")] = "1,4,8,16,64",
    seen_tasks: Annotated[int, typer.Option(help="Most seen tasks to measure.", min=1)] = 20,
    unseen_tasks: Annotated[int, typer.Option(help="Most unseen tasks to measure.", min=1)] = 100,
    test_rows: Annotated[int, typer.Option(help="Most test rows per task.", min=1)] = 500,
    fit_steps: Annotated[int | None, typer.Option(help="Optimizer steps per fit.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in the subspace. Default: as the service.", min=1)] = None,
    pt_steps: Annotated[int, typer.Option(help="Steps of plain prompt tuning, at three learning rates.", min=1)] = 200,
    ablation: Annotated[
        list[str] | None,
        typer.Option(help="Add: start, readout, tasks, prompt-length, placement or finding; repeat for several."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit subspaces of several dimensions, compare them with all baselines, and write one report.

    The index.json of TASKS says which tasks are seen (subspaces are fitted on them) and which are unseen.
    After an interruption the same command resumes.

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
    from ipt.evaluation.study.options import StudyOptions
    from ipt.evaluation.study.plots import check_installed
    from ipt.evaluation.study.report import write_report
    from ipt.evaluation.study.run import Study
    from ipt.fitting.direct_fit import FitOptions

    for option, values, allowed in (("method", method, METHODS), ("ablation", ablation, ABLATIONS)):
        if unknown := set(values or ()) - set(allowed):
            raise CliError(f"unknown {option} {min(unknown)!r}; allowed: {', '.join(allowed)}")
    check_installed()
    check_folder(output)
    left_out = {"IST then PT"} if is_installed() else {"IST then PT", "SetFit"}
    options = StudyOptions(
        dimensions=_numbers("--dimensions", dimensions, LARGEST_DIM),
        methods=tuple(dict.fromkeys(method or ()) or (name for name in METHODS if name not in left_out)),
        seeds=tuple(range(first_seed, first_seed + seeds)),
        slow_seeds=slow_seeds,
        seen_tasks=seen_tasks,
        unseen_tasks=unseen_tasks,
        curve=_numbers("--curve", curve, 10_000) if curve else (),
        ablations=tuple(ablation or ()),
        fit=FitOptions(**without_none(steps=fit_steps)),
        evaluation=EvaluationOptions(
            per_label=per_label,
            test_rows=test_rows,
            hyperparameters=ipt.Hyperparameters(**without_none(steps=steps)),
            pt_steps=pt_steps,
        ),
    )
    seen, unseen = (read_task_folder(tasks, split) for split in ("seen", "unseen"))
    notes = [*dict.fromkeys([*seen.skipped, *unseen.skipped]), *row_notes([*seen.tasks, *unseen.tasks])]
    loaded = load_in_dedicated_process(backbone, revision, device)
    subspaces = [ipt.load_subspace(spec, loaded) for spec in subspace or ()]
    for each in subspaces:
        if each.intrinsic_dim not in options.dimensions:
            raise CliError(f"subspace {each.id} has dimension {each.intrinsic_dim}: add it to --dimensions")
    report = output / "report.md"
    with progress(notices()) as show:

        def on_part(findings: "Findings") -> None:
            write_report(report, output / "plots", findings, options, notes)

        running = Study(
            loaded, seen.tasks, unseen.tasks, subspaces, output, options, show, origin=origin_of_fit(seen.tasks)
        )
        try:
            running.run(on_part)
        except KeyboardInterrupt:
            if running.findings.measured:
                on_part(running.findings)
                notices().print(f"the results so far are in {report}", soft_wrap=True)
            notices().print("stopped; the same command resumes")
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
        raise CliError(f"{option} takes numbers from 1 to {largest}, separated by commas, got {text[:100]!r}")
    return tuple(numbers)
