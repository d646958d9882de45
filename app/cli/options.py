"""Options that several commands share."""

import os
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option("--url", envvar="IPT_URL", help="Where the service answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text for people.")]


def api_key() -> str | None:
    """The key to call the service with. Only from the environment: a command's options are visible to other users."""
    return os.environ.get("IPT_API_KEY") or None
