"""Texts from standard input or from a file."""

import sys
from pathlib import Path

import typer

from app.cli.output import CliError
from app.cli.upload import with_options


def text_from_stdin() -> str:
    """Return standard input as one text."""
    if sys.stdin.isatty():
        raise typer.BadParameter("give a text as argument or on standard input", param_hint="TEXT")
    return _read_stdin().strip()


def lines_from_stdin() -> list[str]:
    """Return the lines of standard input that are not blank."""
    if sys.stdin.isatty():
        raise typer.BadParameter("give texts as arguments, or one per line on standard input", param_hint="TEXTS")
    inputs = piped_lines()
    if not inputs:
        raise CliError("standard input is empty: expected one text per line")
    return inputs


def piped_lines() -> list[str]:
    """Return the lines of standard input that are not blank; none if it is a terminal."""
    if sys.stdin.isatty():
        return []
    return [line for line in map(str.strip, _read_stdin().splitlines()) if line]


def lines_from_file(path: Path, charset: str | None) -> list[str]:
    """Return the lines of a text file that are not blank, decoded as dataset files are.

    Raises:
        CliError: the file cannot be read, or is no text in this charset.
    """
    from ipt.data.files.containers import decompress
    from ipt.data.files.encodings import decode
    from ipt.data.files.errors import DatasetFileError
    from ipt.data.files.reader import MAX_BYTES

    try:
        data, _ = decompress(path.read_bytes(), MAX_BYTES)
        text, _ = decode(data, charset)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error
    except DatasetFileError as error:
        place = "" if error.line is None else f":{error.line}"
        raise CliError(f"{path}{place}: {with_options(error.message)}") from error
    return [line for line in map(str.strip, text.splitlines()) if line]


def _read_stdin() -> str:
    from ipt.data.files.encodings import byte_order_mark, likely_charset

    data = sys.stdin.buffer.read()
    mark, marked = byte_order_mark(data)
    encoding = marked or sys.stdin.encoding
    try:
        return data[len(mark) :].decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        guess = likely_charset(data, error.start)
        advice = (
            f"it looks like {guess}: convert it, or set"
            if guess
            else "convert it to this encoding, or name its encoding in"
        )
        setting = f"PYTHONIOENCODING={guess}" if guess else "the variable PYTHONIOENCODING"
        raise CliError(
            f"standard input is not valid {encoding.upper()} at byte {len(mark) + error.start + 1}: {advice} {setting}"
        ) from error
