"""`ipt subspace`: find a subspace, and look at one."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import AsJson
from app.cli.output import notices, print_json, results, score

if TYPE_CHECKING:
    from app.cli.progress import Update
    from ipt.subspace.resumable import FitProgress, ResumableFit

commands = typer.Typer(no_args_is_help=True, help="Find a subspace from many tasks, or look at one.")

_CHECKPOINT = "fit.safetensors"
_CHECKPOINT_EVERY_STEPS = 50
_SMOOTHING = 0.98


@commands.command()
def fit(
    tasks: Annotated[Path, typer.Argument(help="Folder of tasks, one JSONL file each.", metavar="TASKS")],
    output: Annotated[Path, typer.Argument(help="Folder that the subspace is written to.", metavar="OUTPUT")],
    split: Annotated[str | None, typer.Option(help="Only the tasks that index.json has in this split.")] = None,
    backbone: Annotated[str, typer.Option(help="'default', a hub id, or a folder.")] = "default",
    revision: Annotated[str | None, typer.Option(help="The hub revision of the backbone.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; the best there is without it.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; the shipped subspace's without it.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the start, and the order of tasks and examples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find a subspace from many tasks: one decoder, and one vector a task, learned together.

    Each line of a task's file is {"split": "train" or "test", "input": …, "output": …}. Stopped or killed, the same
    command goes on where it was.

    \b
    ipt subspace fit tasks/ my-subspace --split seen
    IPT_SUBSPACE=my-subspace ipt serve
    """
    import ipt
    from app.cli.progress import progress
    from ipt.subspace.fit import DirectFit, FitOptions
    from ipt.subspace.task_losses import prepare_tasks
    from ipt.task_folder import read_task_folder

    options = FitOptions(seed=seed)
    if steps is not None:
        options = replace(options, steps=steps)
    folder_tasks = read_task_folder(tasks, split)
    loaded = ipt.load_backbone(backbone, revision=revision, device=device)
    with progress(notices()) as show:
        prepared = prepare_tasks(loaded, folder_tasks, options, lambda done, total: show("reading tasks", done, total))
        running = DirectFit(prepared, options)
        checkpoint = output / _CHECKPOINT
        if checkpoint.is_file():
            running.load_checkpoint(checkpoint)
            notices().print(f"going on from step {running.completed}, as {checkpoint} has it")
        quality = _run(running, checkpoint, show)
    subspace = running.save(output, quality)
    checkpoint.unlink(missing_ok=True)
    _say_where(subspace.id, output, quality, as_json=as_json)


@commands.command()
def info(
    subspace: Annotated[str, typer.Argument(help="'default', or a subspace's folder.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Check a subspace's files and print what its manifest says.

    \b
    ipt subspace info
    ipt subspace info my-subspace --json
    """
    import ipt

    loaded = ipt.load_subspace(subspace)
    manifest = loaded.manifest
    if as_json:
        print_json(manifest)
        return
    training = manifest["training"]
    backbone = manifest["backbone"]
    table = Table(box=None, pad_edge=False, show_header=False)
    prompt = f"{loaded.prompt_length} × {loaded.hidden_size}"
    rows = {
        "id": loaded.id,
        "backbone": f"{backbone['id']} ({backbone.get('family', 'family unknown')})",
        "backbone weights": f"sha256 {backbone['weights_sha256']}",
        "task vector": f"{loaded.intrinsic_dim} floats",
        "soft prompt": f"{prompt}, {manifest['prompt_placement']}",
        "decoder": " → ".join(map(str, filter(None, (loaded.intrinsic_dim, manifest["decoder_hidden"], prompt)))),
        "encoder": "none" if loaded.encoder is None else f"{prompt} → {loaded.intrinsic_dim}",
        "found from": f"{len(training.get('tasks', []))} tasks, method {training.get('method', 'not recorded')}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value, overflow="fold"))
    results().print(table)


@commands.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the reference implementation (….pt).")],
    output: Annotated[Path, typer.Argument(help="Folder that the subspace is written to.", metavar="OUTPUT")],
    backbone: Annotated[str, typer.Option(help="The backbone that it was made with: a hub id, or a folder.")],
    revision: Annotated[str | None, typer.Option(help="The hub revision of the backbone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite the paper's authors' checkpoint as a subspace, with its encoder.

    Only tensors are read from it (weights_only), so a hostile file can run nothing.

    \b
    ipt subspace import last-ckpt.pt bart-subspace --backbone facebook/bart-base
    IPT_BACKBONE=facebook/bart-base IPT_SUBSPACE=bart-subspace ipt serve
    """
    import ipt
    from ipt.subspace.reference import import_checkpoint

    loaded = ipt.load_backbone(backbone, revision=revision, device="cpu")
    subspace = import_checkpoint(checkpoint, loaded, output)
    _say_where(subspace.id, output, {}, as_json=as_json)


@commands.command()
def compress(
    prompts: Annotated[Path, typer.Argument(help="Soft prompts: a safetensors file of [P, H] tensors.")],
    subspace: Annotated[str, typer.Option(help="A subspace's folder; it must have its encoder.")],
) -> None:
    """Compress soft prompts to task vectors with a subspace's encoder; prints one JSON object, by name.

    \b
    ipt subspace compress prompts.safetensors --subspace bart-subspace
    """
    import ipt
    from ipt.soft_prompts import read_prompts

    loaded = ipt.load_subspace(subspace)
    vectors = {name: loaded.compress(prompt[None])[0].tolist() for name, prompt in read_prompts(prompts).items()}
    print_json({"subspace_id": loaded.id, "vectors": vectors})


def _say_where(subspace_id: str, output: Path, more: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print_json({"subspace_id": subspace_id, "folder": str(output), **more})
    else:
        results().print(f"{subspace_id} in {output}; use it with IPT_SUBSPACE={output}", soft_wrap=True)


def _run(running: "ResumableFit", checkpoint: Path, show: "Update") -> dict[str, float]:
    """Step until done, saving now and then; give the smoothed measures of the last steps, by name."""
    means: dict[str, float] = {}
    try:
        while not running.done:
            step: FitProgress = running.step()
            for name in ("loss", "accuracy", "reconstruction"):
                value = getattr(step, name)
                if value is not None:
                    means[name] = _SMOOTHING * means.get(name, value) + (1 - _SMOOTHING) * value
            detail = "".join(f", {name} {_shown(name, mean)}" for name, mean in means.items())
            show("fitting", step.step, step.steps, detail)
            if step.step % _CHECKPOINT_EVERY_STEPS == 0:
                running.save_checkpoint(checkpoint)
    except KeyboardInterrupt:
        running.save_checkpoint(checkpoint)
        notices().print(f"stopped at step {running.completed}; the same command goes on from there")
        raise typer.Exit(130) from None
    running.save_checkpoint(checkpoint)
    return means


def _shown(name: str, mean: float) -> str:
    return score(mean) if name == "accuracy" else f"{mean:.3g}"
