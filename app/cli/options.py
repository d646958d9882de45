"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option("--url", envvar="IPT_URL", help="Address of the service.")]
Tasks = Annotated[Path, typer.Argument(help="Folder of tasks: JSONL files, or TSV files of CrossFit.", metavar="TASKS")]
Split = Annotated[str | None, typer.Option(help="Only tasks of this split in index.json.")]
BackboneName = Annotated[str, typer.Option("--backbone", help="'default', a hub id, or a folder.")]
Revision = Annotated[str | None, typer.Option(help="Hub revision of the backbone.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … Default: the best available device.")]
LARGEST_DIM = 4096
"""Most dimensions of a task vector; a larger decoder would have more weights than a small backbone."""
LARGEST_SEED = 2**32 - 1
"""Equals the limit in `ipt.tuning.job`, whose import would load torch for every command."""
FirstSeed = Annotated[
    # Further seeds follow it, so the limit leaves room.
    int, typer.Option(help="Seed of the first draw; fits use seed 0.", min=0, max=LARGEST_SEED // 2)
]
LabelSeparator = Annotated[
    str | None, typer.Option(help="What separates several labels in a cell, such as ';'.", metavar="TEXT")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def api_key() -> str | None:
    """Return the API key from the environment. It is not an option, since other users can see a command's options."""
    return os.environ.get("IPT_API_KEY") or None


def without_none(**options: Any) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
