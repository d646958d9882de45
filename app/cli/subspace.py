"""`ipt subspace`: fit, import and inspect subspaces."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import (
    LARGEST_DIM,
    LARGEST_SEED,
    AsJson,
    BackboneName,
    Device,
    Revision,
    Split,
    Tasks,
    without_none,
)
from app.cli.origin import origin_of_fit
from app.cli.output import CliError, notices, print_json, print_notes, results, score
from app.cli.subspace_folder import check_new_subspace, print_location

if TYPE_CHECKING:
    from torch import Tensor

    from ipt.backbones.interface import Backbone
    from ipt.fitting.fit_rows import RowOptions
    from ipt.fitting.resumable_fit import FitProgress, ResumableFit
    from ipt.fitting.task_losses import TaskLosses

_POSITIONS_IN_LAYERS = {"encoder": 4, "causal": 1}
"""Default prompt length of prompts in layers, which have keys and values for each position and layer."""

commands = typer.Typer(no_args_is_help=True, help="Fit a subspace on many tasks, import one, or inspect one.")


class Method(StrEnum):
    """How a subspace is fitted."""

    DIRECT = "direct"
    AUTOENCODER = "autoencoder"


@commands.command()
def fit(
    tasks: Tasks,
    output: Annotated[Path, typer.Argument(help="Folder for the subspace.", metavar="OUTPUT")],
    split: Split = None,
    backbone: BackboneName = "default",
    revision: Revision = None,
    device: Device = None,
    method: Annotated[
        Method, typer.Option(help="Learn decoder and task vectors from tasks, or an auto-encoder from tuned prompts.")
    ] = Method.DIRECT,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Tuned prompts for the auto-encoder (`ipt subspace tune-prompts`); one file per seed."),
    ] = None,
    intrinsic_dim: Annotated[int | None, typer.Option(help="Floats per task vector.", min=1, max=LARGEST_DIM)] = None,
    decoder_hidden: Annotated[
        int | None, typer.Option(help="Width of the decoder's hidden layer; 0: none.", min=0, max=LARGEST_DIM)
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(
            help="Where prompts are read: in the input (e.g. after_first_token, user_turn), or as keys and values in "
            "layers (upper_layers, every_layer). Default: every_layer on an encoder or a causal model, before_input on "
            "other backbones."
        ),
    ] = None,
    prompt_length: Annotated[
        int | None, typer.Option(help="Positions of a soft prompt: 16; in layers 4, or 1 of a causal model.", min=1)
    ] = None,
    tasks_per_step: Annotated[int | None, typer.Option(help="Tasks of one step: 3.", min=1)] = None,
    rows_per_task: Annotated[int | None, typer.Option(help="Rows of each task in a step: 18.", min=2)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", min=1)] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of decoder and encoder.", min=1e-8, max=1.0)
    ] = None,
    vector_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the tasks' vectors: 0.01. Raise it if a task is drawn in few steps.",
            min=1e-8,
            max=1.0,
        ),
    ] = None,
    bias_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the decoder's output bias, which all tasks share. Default: --learning-rate.",
            min=1e-8,
            max=1.0,
        ),
    ] = None,
    zero_vector_probability: Annotated[
        float | None,
        typer.Option(
            help="How often a task reads the zero vector's prompt, not its own. 1 fits only the prompt that all tasks "
            "share, for `ipt subspace redirect --dimensions` with all dimensions. Default: 0.2.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    reconstruction_weight: Annotated[
        float | None,
        typer.Option(help="Weight of the reconstruction error in the auto-encoder's loss.", min=0, max=1e9),
    ] = None,
    task_weight: Annotated[
        float | None,
        typer.Option(help="Weight of the task loss in the auto-encoder's loss.", min=0, max=1e9),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed of initial weights and of the order of tasks and examples.", min=0, max=LARGEST_SEED),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a subspace on many tasks: one decoder, and one vector per task.

    Each line of a task's file is {"split": "train" or "test", "input": …, "output": …}. After an interruption the
    same command resumes. `ipt subspace redirect` then replaces dimensions, as in the shipped subspace.

    \b
    ipt subspace fit tasks/ my-subspace --split seen
    ipt subspace fit tasks/ my-subspace --split seen --method autoencoder --prompts prompts.safetensors
    IPT_SUBSPACE=my-subspace ipt serve
    """
    from app.cli.progress import progress
    from ipt.backbones.loading import load_in_dedicated_process
    from ipt.data.task_dataset import row_notes
    from ipt.data.task_folder import read_task_folder
    from ipt.fitting.autoencoder_fit import AutoencoderFit, AutoencoderOptions
    from ipt.fitting.direct_fit import DirectFit, FitOptions
    from ipt.fitting.prepare_tasks import prepare_tasks

    if (method is Method.AUTOENCODER) != bool(prompts):
        raise CliError("--method autoencoder learns from tuned prompts: give --prompts FILE with it, and only with it")
    weights = without_none(reconstruction_weight=reconstruction_weight, task_weight=task_weight)
    of_direct_fits = without_none(
        vector_learning_rate=vector_learning_rate,
        bias_learning_rate=bias_learning_rate,
        zero_vector_probability=zero_vector_probability,
    )
    if of_direct_fits and prompts:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in of_direct_fits)
        raise CliError(f"{names} need --method direct")
    if weights and not prompts:
        raise CliError("--reconstruction-weight and --task-weight need --method autoencoder")
    check_new_subspace(output)
    folder_tasks = read_task_folder(tasks, split).require_all()
    print_notes(row_notes(folder_tasks))
    loaded = load_in_dedicated_process(backbone, revision, device)
    if placement is None and not prompts:
        placement = loaded.fit_placement
    if placement is not None:
        loaded = loaded.placed(placement)
    positions = prompt_length or (
        _POSITIONS_IN_LAYERS[loaded.family] if loaded.prompted_layers and not prompts else None
    )
    rows = None if positions is None else loaded.prompt_rows(positions)
    drawn = without_none(tasks_per_step=tasks_per_step, rows_per_task=rows_per_task)
    running: ResumableFit
    with progress(notices()) as show:

        def prepare(options: "RowOptions") -> "TaskLosses":
            return prepare_tasks(loaded, folder_tasks, options, lambda done, total: show("reading tasks", done, total))

        if prompts:
            tuned = _read_prompts(prompts, loaded, rows)
            ae_options = AutoencoderOptions(
                seed=seed,
                **drawn,
                **without_none(intrinsic_dim=intrinsic_dim, steps=steps, learning_rate=learning_rate),
                **weights,
            )
            running = AutoencoderFit(prepare(ae_options), tuned, ae_options)
        else:
            options = FitOptions(
                seed=seed,
                **drawn,
                **without_none(
                    intrinsic_dim=intrinsic_dim,
                    decoder_hidden=decoder_hidden,
                    prompt_length=rows,
                    steps=steps,
                    decoder_learning_rate=learning_rate,
                    **of_direct_fits,
                ),
            )
            running = DirectFit(prepare(options), options)

        running.origin = origin_of_fit(folder_tasks)

        def on_step(step: "FitProgress", means: Mapping[str, float]) -> None:
            show("fitting", step.step, step.steps, describe_means(means))

        try:
            subspace = running.run_in(output, on_step)
        except KeyboardInterrupt:
            notices().print(f"stopped at step {running.completed}; the same command resumes there")
            raise typer.Exit(130) from None
    print_location(subspace.id, output, running.means, as_json=as_json)


@commands.command()
def info(
    subspace: Annotated[str, typer.Argument(help="'default', or the folder of a subspace.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Check the files of a subspace and print a summary of its manifest.

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
        "fitted on": f"{len(training.get('tasks', []))} tasks, method {training.get('method', 'not recorded')}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value, overflow="fold"))
    results().print(table)


@commands.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the reference implementation (.pt).")],
    output: Annotated[Path, typer.Argument(help="Folder for the subspace.", metavar="OUTPUT")],
    backbone: Annotated[str, typer.Option(help="Backbone of the checkpoint: a hub id, or a folder.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision of the backbone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of the paper's authors to a subspace with its encoder.

    Only tensors are loaded (weights_only), so a malicious file cannot run code.

    \b
    ipt subspace import last-ckpt.pt bart-subspace --backbone facebook/bart-base
    IPT_BACKBONE=facebook/bart-base IPT_SUBSPACE=bart-subspace ipt serve
    """
    import ipt
    from ipt.subspace.paper_checkpoints import import_checkpoint

    check_new_subspace(output)
    loaded = ipt.load_backbone(backbone, revision=revision, device="cpu")
    subspace = import_checkpoint(checkpoint, loaded, output)
    print_location(subspace.id, output, {}, as_json=as_json)


@commands.command()
def compress(
    prompts: Annotated[Path, typer.Argument(help="Safetensors file of soft prompts [P, H].")],
    subspace: Annotated[str, typer.Option(help="Folder of a subspace that has an encoder.")],
) -> None:
    """Compress soft prompts to task vectors with a subspace's encoder, and print them by name as JSON.

    \b
    ipt subspace compress prompts.safetensors --subspace bart-subspace
    """
    import ipt
    from ipt.subspace.soft_prompt_files import read_prompts

    loaded = ipt.load_subspace(subspace)
    vectors = {name: loaded.compress(prompt[None])[0] for name, prompt in read_prompts(prompts, loaded).items()}
    for name, vector in vectors.items():
        if not vector.isfinite().all():
            raise CliError(f"{prompts}: the numbers of {name} are too large for a task vector")
    print_json({"subspace_id": loaded.id, "vectors": {name: vector.tolist() for name, vector in vectors.items()}})


def _read_prompts(paths: Sequence[Path], backbone: "Backbone", prompt_rows: int | None) -> "dict[str, Tensor]":
    """Return the prompts of all files by name; the same name in a further file is another prompt of the same task.

    Raises:
        CliError: a prompt does not have `prompt_rows` rows, or all prompts are equal.
    """
    from ipt.subspace.soft_prompt_files import read_prompts

    prompts: dict[str, Tensor] = {}
    for number, path in enumerate(paths):
        for name, prompt in read_prompts(path, backbone).items():
            if prompt_rows not in (None, prompt.shape[0]):
                positions, expected = map(backbone.prompt_words, (prompt.shape[0], prompt_rows))
                raise CliError(f"{path}: {name} has {positions} positions, not {expected}: omit --prompt-length")
            unique = name
            while unique in prompts:  # a task may be named like this
                unique += f"#{number}"
            prompts[unique] = prompt
    first, *others = prompts.values()
    if others and all(other.equal(first) for other in others):
        raise CliError(
            f"{paths[0]}: all prompts are the same, so an auto-encoder has nothing to learn: tuning changed none of "
            "them. Tune them with another --learning-rate, more --steps, or more examples (--per-label)"
        )
    return prompts


def describe_means(means: Mapping[str, float]) -> str:
    """Format a fit's smoothed measures for a progress bar."""
    return "".join(f", {name} {score(mean) if name == 'accuracy' else f'{mean:.3g}'}" for name, mean in means.items())
