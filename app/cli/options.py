"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option("--url", envvar="IPT_URL", help="Where the service answers.")]
Tasks = Annotated[Path, typer.Argument(help="Folder of tasks: JSONL files, or CrossFit's TSV files.", metavar="TASKS")]
Split = Annotated[str | None, typer.Option(help="Only the tasks that index.json has in this split.")]
BackboneName = Annotated[str, typer.Option("--backbone", help="'default', a hub id, or a folder.")]
Revision = Annotated[str | None, typer.Option(help="The hub revision of the backbone.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; the best there is without it.")]
LARGEST_DIM = 4096
"""Of a task vector: a decoder of more would have more numbers than a small backbone."""
LARGEST_SEED = 2**32 - 1
"""That of `ipt.tuning.job`, which would load torch for every command."""
FirstSeed = Annotated[
    # Others are counted up from it.
    int, typer.Option(help="The first draw; a fit has used seed 0.", min=0, max=LARGEST_SEED // 2)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text for people.")]


def api_key() -> str | None:
    """The key to call the service with. Only from the environment: a command's options are visible to other users."""
    return os.environ.get("IPT_API_KEY") or None


def those_given(**options: Any) -> dict[str, Any]:
    """Those options that the user gave."""
    return {name: value for name, value in options.items() if value is not None}
