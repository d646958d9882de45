"""`ipt subspace redirect` and `share-lower-layers`: make a subspace from a fitted one."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import LARGEST_DIM, LARGEST_SEED, AsJson, BackboneName, Device, Revision, Split
from app.cli.output import CliError, notices, print_notes
from app.cli.subspace_folder import check_new_subspace, print_location

_ROWS_OF_GRADIENT = {"encoder": 18, "seq2seq": 8, "causal": 8}
"""Rows of a task behind one gradient: an encoder compares rows of several labels."""


def redirect(
    fitted: Annotated[str, typer.Argument(help="'default', or the folder of a fitted subspace.", metavar="FITTED")],
    output: Annotated[Path, typer.Argument(help="Folder for the new subspace.", metavar="OUTPUT")],
    tasks: Annotated[
        Path | None,
        typer.Option(help="Folder of tasks: take the principal directions of their gradients. Without: random."),
    ] = None,
    split: Split = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Take the directions of these prompts of `ipt subspace tune-prompts --start FITTED`."),
    ] = None,
    dimensions: Annotated[
        int,
        typer.Option(
            help="Number of dimensions to replace. With all of them only the zero vector's prompt stays.",
            min=1,
            max=LARGEST_DIM,
        ),
    ] = 125,
    seed: Annotated[int, typer.Option(help="Seed of random directions, and of rows.", min=0, max=LARGEST_SEED)] = 0,
    backbone: BackboneName = "default",
    revision: Revision = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Replace the dimensions that training tasks use least by gradients of tasks, by tuned prompts, or by random ones.

    Tuning then also finds what the training tasks do not share. Initial vectors keep their prompts if dimensions stay.

    \b
    ipt subspace fit tasks/ fitted --split seen --zero-vector-probability 1
    ipt subspace redirect fitted my-subspace --tasks tasks/ --split seen --dimensions 250
    """
    import ipt
    from app.cli.progress import progress
    from ipt.data.task_dataset import row_notes
    from ipt.data.task_folder import read_task_folder
    from ipt.fitting.fit_rows import RowOptions
    from ipt.fitting.other_directions import (
        with_gradient_directions,
        with_prompt_directions,
        with_random_directions,
    )
    from ipt.fitting.prepare_tasks import prepare_tasks
    from ipt.subspace.soft_prompt_files import read_prompts

    if tasks and prompts:
        raise CliError("--tasks and --prompts both give directions: give one of them")
    if split and not tasks:
        raise CliError("--split selects tasks: give --tasks FOLDER with it")
    check_new_subspace(output)
    loaded = ipt.load_backbone(backbone, revision=revision, device=device if tasks else "cpu")
    source = ipt.load_subspace(fitted, loaded)
    if tasks:
        folder_tasks = read_task_folder(tasks, split).require_all()
        print_notes(row_notes(folder_tasks))
        placed = source.placed(loaded)
        with progress(notices()) as show:
            losses = prepare_tasks(
                placed,
                folder_tasks,
                RowOptions(rows_per_task=_ROWS_OF_GRADIENT[placed.family], seed=seed),
                lambda done, total: show("reading tasks", done, total),
            )
            subspace = with_gradient_directions(
                source, losses, dimensions, output, seed, lambda done, total: show("gradients", done, total)
            )
    elif prompts:
        tuned = [read_prompts(file, source.placed(loaded)) for file in prompts]
        subspace = with_prompt_directions(source, loaded, dimensions, output, tuned)
    else:
        subspace = with_random_directions(source, loaded, dimensions, output, seed)
    print_location(subspace.id, output, {}, as_json=as_json)


def share_lower_layers(
    fitted: Annotated[str, typer.Argument(help="'default', or the folder of a fitted subspace.", metavar="FITTED")],
    output: Annotated[Path, typer.Argument(help="Folder for the new subspace.", metavar="OUTPUT")],
    backbone: BackboneName = "default",
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Let task vectors move the upper third of the layers only: tuning is several times as fast on a CPU.

    All tasks share the lower layers of the zero vector's prompt. FITTED must have prompts at every layer of an encoder.

    \b
    ipt subspace fit tasks/ fitted --split seen --placement every_layer
    ipt subspace share-lower-layers fitted my-subspace
    """
    import ipt
    from ipt.fitting.shared_lower_layers import share_lower_layers

    check_new_subspace(output)
    loaded = ipt.load_backbone(backbone, revision=revision, device="cpu")
    subspace = share_lower_layers(ipt.load_subspace(fitted, loaded), loaded, output)
    print_location(subspace.id, output, {}, as_json=as_json)
