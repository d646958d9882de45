"""`ipt subspace redirect` and `share-lower-layers`: make a subspace from a fitted one."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import LARGEST_DIM, LARGEST_SEED, AsJson, BackboneName, Revision
from app.cli.subspace_folder import check_new_subspace, print_location


def redirect(
    fitted: Annotated[str, typer.Argument(help="'default', or the folder of a fitted subspace.", metavar="FITTED")],
    output: Annotated[Path, typer.Argument(help="Folder for the new subspace.", metavar="OUTPUT")],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Prompts from `ipt subspace tune-prompts --start FITTED`; repeatable. Without: random."),
    ] = None,
    dimensions: Annotated[
        int,
        typer.Option(
            help="Number of dimensions to replace. With all of them only the zero vector's prompt stays.",
            min=1,
            max=LARGEST_DIM,
        ),
    ] = 125,
    seed: Annotated[int, typer.Option(help="Seed of random directions.", min=0, max=LARGEST_SEED)] = 0,
    backbone: BackboneName = "default",
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Replace the dimensions that training tasks use least by directions in which whole prompts were tuned, or random.

    Tuning then also finds what the training tasks do not share. Initial vectors keep their prompts if dimensions stay.

    \b
    ipt subspace fit tasks/ fitted --split seen
    ipt subspace tune-prompts tasks/ prompts.safetensors --split seen --start fitted
    ipt subspace redirect fitted my-subspace --prompts prompts.safetensors
    """
    import ipt
    from ipt.fitting.other_directions import with_prompt_directions, with_random_directions
    from ipt.subspace.soft_prompt_files import read_prompts

    check_new_subspace(output)
    loaded = ipt.load_backbone(backbone, revision=revision, device="cpu")
    source = ipt.load_subspace(fitted, loaded)
    if prompts:
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
