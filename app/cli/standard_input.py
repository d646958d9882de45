"""Texts from standard input."""

import sys

import typer

from app.cli.output import CliError


def text_from_stdin() -> str:
    """Return standard input as one text."""
    if sys.stdin.isatty():
        raise typer.BadParameter("give a text as argument or on standard input", param_hint="TEXT")
    return _read_stdin().strip()


def lines_from_stdin() -> list[str]:
    """Return the lines of standard input that are not blank."""
    if sys.stdin.isatty():
        raise typer.BadParameter("give texts as arguments, or one per line on standard input", param_hint="TEXTS")
    inputs = [line for line in map(str.strip, _read_stdin().splitlines()) if line]
    if not inputs:
        raise CliError("standard input is empty: expected one text per line")
    return inputs


def _read_stdin() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode(sys.stdin.encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as Windows PowerShell writes files
            return data.decode("utf-16", errors="replace").replace("\r\n", "\n")
        raise CliError(
            f"standard input is not valid {sys.stdin.encoding.upper()} at byte {error.start + 1}: convert it to "
            "this encoding, or name its encoding in the variable PYTHONIOENCODING"
        ) from error
