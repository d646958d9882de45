"""`ipt subspace evaluate`: compare a subspace with prompt tuning and baselines on tasks."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import AsJson, BackboneName, Device, FirstSeed, Revision, Split, Tasks, without_none
from app.cli.output import CliError, check_file, notices, print_json, results


def evaluate(
    tasks: Tasks,
    output: Annotated[
        Path, typer.Argument(help="Markdown file of the report; measurements are stored next to it.", metavar="OUTPUT")
    ],
    subspace: Annotated[str, typer.Option(help="'default', or the folder of a subspace.")] = "default",
    split: Split = None,
    backbone: BackboneName = "default",
    revision: Revision = None,
    device: Device = None,
    method: Annotated[list[str] | None, typer.Option(help="Measure only this method; repeat for several.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of draws of examples.", min=1, max=10_000)] = 3,
    first_seed: FirstSeed = 100,
    per_label: Annotated[int, typer.Option(help="Training examples per label.", min=2)] = 16,
    test_rows: Annotated[int, typer.Option(help="Most test rows per task.", min=1)] = 500,
    steps: Annotated[int | None, typer.Option(help="Steps in the subspace. Default: as the service.", min=1)] = None,
    pt_steps: Annotated[int, typer.Option(help="Steps of plain prompt tuning, at three learning rates.", min=1)] = 200,
    as_json: AsJson = False,
) -> None:
    """Measure a subspace on the test rows of tasks: tuning in it (IST) against plain prompt tuning (PT) and baselines.

    E_rel is IST's score divided by PT's. Training tasks of the subspace are measured with rows that the fit did not
    see. The report names the tasks that cannot be measured. After an interruption the same command resumes.

    \b
    ipt subspace evaluate tasks/ evaluation.md --split unseen
    ipt subspace evaluate tasks/ evaluation.md --split seen --subspace my-subspace --method IST --method PT
    """
    import ipt
    from app.cli.progress import progress
    from ipt.backbones.loading import load_in_dedicated_process
    from ipt.data.task_dataset import row_notes
    from ipt.data.task_folder import read_task_folder
    from ipt.evaluation.evaluation import Evaluation, measure_missing
    from ipt.evaluation.measured_tasks import measurable_tasks, no_measurable_task, without_fitted_rows
    from ipt.evaluation.measurement_file import MeasurementFile
    from ipt.evaluation.measurements import e_rel
    from ipt.evaluation.methods import METHODS
    from ipt.evaluation.protocol import EvaluationOptions
    from ipt.evaluation.report import render
    from ipt.evaluation.setfit import is_installed

    if unknown := set(method or ()) - set(METHODS):
        raise CliError(f"unknown method {min(unknown)!r}; known methods: {', '.join(METHODS)}")
    check_file(output, ".md")
    folder = read_task_folder(tasks, split)
    loaded = load_in_dedicated_process(backbone, revision, device)
    loaded_subspace = ipt.load_subspace(subspace, loaded)
    unfitted, notes = without_fitted_rows(folder.tasks, [loaded_subspace])
    measured_tasks, faults = measurable_tasks(unfitted, per_label, loaded.family)
    if not measured_tasks:
        raise no_measurable_task(per_label, faults)
    options = EvaluationOptions(
        per_label=per_label,
        test_rows=test_rows,
        hyperparameters=ipt.Hyperparameters(**without_none(steps=steps)),
        pt_steps=pt_steps,
    )
    methods = list(dict.fromkeys(method or ())) or [name for name in METHODS if name != "SetFit" or is_installed()]
    evaluation = Evaluation(loaded, loaded_subspace, options)
    stored = MeasurementFile(output.with_suffix(".jsonl"), evaluation.identity)
    with progress(notices()) as show:

        def on_pair(done: int, total: int, task: str) -> None:
            show("measuring", done, total, f", {task}" if task else "", over=done == total)

        draws = range(first_seed, first_seed + seeds)
        measurements = list(measure_missing(evaluation, stored, measured_tasks, draws, methods, on_pair))
    rates = len(evaluation.pt_learning_rates)
    about = (
        f"Subspace `{evaluation.subspace.id}` on `{loaded.identity.id}`: mean over {seeds} draws of {per_label} "
        f"examples per label, at most {test_rows} test rows per task; {options.hyperparameters.steps} steps in the "
        f"subspace, {pt_steps} of plain prompt tuning at the best of {rates} learning rates "
        "on held-back examples."
    )
    left_out = [*folder.skipped, *notes, *faults, *row_notes(measured_tasks)]
    output.write_text(render(measurements, methods, about, left_out), encoding="utf-8")
    if as_json:
        print_json({"report": str(output), "e_rel": e_rel(measurements)})
    else:
        results().print(f"written to {output}", soft_wrap=True)
