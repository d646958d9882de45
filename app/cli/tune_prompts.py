"""`ipt subspace tune-prompts`: plain prompt tuning of many tasks."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import LARGEST_SEED, AsJson, BackboneName, Device, Revision, Split, Tasks
from app.cli.output import CliError, check_file, notices, print_json, print_notes, results, score


def tune_prompts(
    tasks: Tasks,
    output: Annotated[
        Path,
        typer.Argument(help="File for the prompts (.safetensors), with a report next to it.", metavar="OUTPUT"),
    ],
    split: Split = None,
    backbone: BackboneName = "default",
    revision: Revision = None,
    device: Device = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Start at the prompt of the zero vector of this subspace ('default', or a folder). Default: words."
        ),
    ] = None,
    prompt_length: Annotated[
        int | None, typer.Option(help="Positions of a soft prompt: 16, or those of --start.", min=1)
    ] = None,
    per_label: Annotated[int, typer.Option(help="Training examples per label.", min=2)] = 16,
    steps: Annotated[int, typer.Option(help="Optimizer steps per task.", min=1)] = 100,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of the prompts.")] = 0.03,
    seed: Annotated[
        int,
        typer.Option(help="Seed of initial prompts and of choice and order of examples.", min=0, max=LARGEST_SEED),
    ] = 0,
    batch_tasks: Annotated[int, typer.Option(help="Tasks tuned in one batch.", min=1)] = 8,
    as_json: AsJson = False,
) -> None:
    """Tune one soft prompt for each of many tasks, without a subspace (plain prompt tuning).

    All steps are taken; the prompt that scores best on held-back examples is kept, which may be the initial one.
    After an interruption the same command resumes with the remaining tasks.

    \b
    ipt subspace tune-prompts tasks/ prompts.safetensors --split seen
    ipt subspace fit tasks/ my-subspace --split seen --method autoencoder --prompts prompts.safetensors
    """
    import ipt
    from app.cli.progress import progress
    from ipt.backbones.loading import load_in_dedicated_process
    from ipt.data.task_folder import read_task_folder
    from ipt.fitting import tune_prompts as tuning

    check_file(output, ".safetensors")
    hyperparameters = ipt.Hyperparameters(steps=steps, learning_rate=learning_rate, seed=seed)
    if start is not None and prompt_length is not None:
        raise CliError("--start brings its own prompt length: omit --prompt-length")
    options = tuning.PromptOptions(prompt_length or tuning.PromptOptions.prompt_length, per_label, hyperparameters)
    folder_tasks = read_task_folder(tasks, split).require_all()
    loaded = load_in_dedicated_process(backbone, revision, device)
    start_subspace = None if start is None else ipt.load_subspace(start, loaded)
    with progress(notices()) as show:

        def on_step(done: int, total: int, finished: int) -> None:
            show("tuning prompts", done, total, f", {finished} of {len(folder_tasks)} tasks done")

        try:
            report = tuning.tune_prompts(
                loaded, folder_tasks, output, options, start=start_subspace, batch_tasks=batch_tasks, on_step=on_step
            )
        except KeyboardInterrupt:
            notices().print("stopped; the same command resumes with the remaining tasks")
            raise typer.Exit(130) from None
    print_notes(report["notes"])
    if as_json:
        print_json(report)
        return
    scores = [task["score"] for task in report["tasks"].values() if task["score"] is not None]
    mean = sum(scores) / len(scores) if scores else None
    moved = sum(task["moved"] for task in report["tasks"].values())
    results().print(
        f"{len(report['tasks'])} prompts in {output}, {moved} of them better than the initial prompt, held-back score "
        f"{score(mean)}",
        soft_wrap=True,
    )
