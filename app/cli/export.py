"""The command `export`: a task's soft prompt in a file, for other inference engines."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_URL, Url, api_key
from app.cli.output import CliError, results
from app.cli.tasks import resolve_task


class Format(StrEnum):
    """What the file holds."""

    SAFETENSORS = "safetensors"
    VLLM_CHAT = "vllm-chat"


def export(
    task: Annotated[str, typer.Argument(help="Id of a task, or its name: the newest task of that name.")],
    output: Annotated[Path, typer.Argument(help="File to write.", metavar="OUTPUT")],
    file_format: Annotated[
        Format, typer.Option("--format", help="One tensor prompt_embeds, or a request for vLLM's chat endpoint.")
    ] = Format.SAFETENSORS,
    subspace: Annotated[
        str, typer.Option(envvar="IPT_SUBSPACE", help="'default', or the folder of the task's subspace.")
    ] = "default",
    version: Annotated[int | None, typer.Option(help="Version of the task. Default: the newest.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write a task's soft prompt for engines that accept prompts as embeddings.

    docs/deployment.md, "Other engines", shows how to use the file. The backbone must be causal, and for vllm-chat the
    subspace's prompts must stand in a user's turn (`ipt subspace fit --placement user_turn`).

    \b
    ipt export replies replies.safetensors --subspace qwen-subspace
    ipt export replies replies.json --format vllm-chat --subspace chat-subspace
    """
    import numpy as np

    import ipt
    from app.cli.client import ServiceClient
    from ipt.subspace.library import SubspaceLibrary
    from ipt.subspace.soft_prompt_files import save_chat_request, save_prompt_embeds

    with ServiceClient(url, api_key()) as client:
        vector = client.vector(resolve_task(client, task), version)
    loaded = ipt.load_subspace(subspace)
    if loaded.id != vector["subspace_id"]:
        loaded = SubspaceLibrary().load(vector["subspace_id"]) or loaded
    if loaded.id != vector["subspace_id"]:
        raise CliError(
            f"the task belongs to subspace {vector['subspace_id']}, but {subspace} is {loaded.id}: name the folder of "
            "the task's subspace with --subspace"
        )
    about = {"task_id": vector["task_id"], "task_version": str(vector["task_version"])}
    save = save_chat_request if file_format is Format.VLLM_CHAT else save_prompt_embeds
    try:
        save(output, loaded, np.asarray(vector["vector"], dtype=np.float32), about)
    except OSError as error:
        raise CliError(f"{output}: cannot be written: {error.strerror}") from error
    results().print(
        f"prompt_embeds [{loaded.prompt_length}, {loaded.hidden_size}] of {vector['task_id']} version "
        f"{vector['task_version']} in {output}",
        markup=False,
        soft_wrap=True,
    )
