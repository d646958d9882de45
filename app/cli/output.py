"""What every command prints with: results on stdout, progress and errors on stderr, and errors in one line."""

import json
import os
import sys
from typing import Any

from rich.console import Console

PLAIN_WIDTH = 100
"""Columns where there is no terminal to ask."""


class CliError(Exception):
    """Ends the command with exit code 1; the message is all that the user sees."""


def results() -> Console:
    """Where a command's result goes."""
    return _console(stderr=False)


def notices() -> Console:
    """Where progress and remarks go, so that they never mix with a result that is piped on."""
    return _console(stderr=True)


def print_json(document: Any) -> None:
    """One JSON document, and nothing else, on stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    """The one line that a failed command leaves on stderr."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")


def score(value: Any) -> str:
    """A score between 0 and 1 as people read it; a dash where there is none."""
    return f"{value:.1%}" if isinstance(value, int | float) else "–"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)
