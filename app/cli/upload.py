"""Send a dataset file to a service, print how it was read, and name its lines as `FILE:5`."""

import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app.cli.client import TIMEOUT_SECONDS, Json, ServiceClient, ServiceError
from app.cli.options import without_none
from app.cli.output import CliError

_PARAM = re.compile(r"^file(?::(\d+))?(?:\.(input|output))?: ")
_PLACE = re.compile(r"\bfile:(\d+)")
# What an error says for the fields of a form, and for the options of a command.
_ADVICE = (
    (re.compile(r"with input_column and output_column\b"), "with --input-column and --output-column"),
    (re.compile(r"send charset=([\w-]+)"), r"add --charset \1"),
    (re.compile(r"or send its charset"), "or name its charset with --charset"),
    (re.compile(r"\b(input|output)_column=([\w.,]*\w)"), r"--\1-column \2"),
    (re.compile(r"\(see (input|output)_column\)"), r"(see --\1-column)"),
    (re.compile(r"; for CSV, send format=csv"), ""),
    (re.compile(r"; send one of .* as format"), ""),
)


def send_file(
    client: ServiceClient,
    path: str,
    file: Path,
    fields: Mapping[str, str | None],
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> Json:
    """Send a file as a form, with the fields that are not None, and return the answer.

    Raises:
        CliError: the file cannot be read, or the service rejects it; the message names file, line and column.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}") from error
    try:
        return client.upload(path, file.name, data, without_none(**fields), timeout_seconds)
    except ServiceError as error:
        raise CliError(with_file_name(str(error), file)) from error


def with_file_name(message: str, file: Path) -> str:
    """Replace the places of the API, such as `file:5.output`, by places such as `tickets.csv:5: output`."""

    def place(match: re.Match[str]) -> str:
        line = f":{match[1]}" if match[1] else ""
        return f"{file}{line}: " + (f"{match[2]}: " if match[2] else "")

    return with_options(_PLACE.sub(lambda match: f"{file}:{match[1]}", _PARAM.sub(place, message)))


def with_options(message: str) -> str:
    """Replace advice about fields of the API by advice about options of the command line."""
    for pattern, words in _ADVICE:
        message = pattern.sub(words, message)
    return message


def task_name(file: Path) -> str:
    """Return the name of the file without its suffixes `.gz` and `.csv`."""
    return Path(file.name.removesuffix(".gz")).stem


def print_check(console: Console, file: Path, check: Json) -> None:
    """Print how a file would be read, its labels and warnings."""
    console.print(Text(f"{file}: {described(check['source']['file'])}"), soft_wrap=True)
    labels = [f"{label} ({count})" for label, count in check["labels"].items()]
    of_labels = f" of {len(labels)} labels: {', '.join(labels)}" if labels else " of text to text"
    console.print(Text(f"{check['examples']} examples{of_labels}"), soft_wrap=True)
    print_warnings(console, file, check["warnings"])


def described(source: Json) -> str:
    """Return in one line how a file was read."""
    columns = source["columns"]
    parts = [
        source["compression"],
        source["encoding"],
        source["delimiter"] and f"delimiter {source['delimiter']}",
        columns and f"columns {columns['input']!r} and {columns['output']!r}",
        source["skipped"] and f"{source['skipped']} rows skipped ({source['skipped_rows'][0]['reason']})",
        *map(with_options, source["notes"]),
    ]
    return f"read as {source['format']}: " + ", ".join(part for part in parts if part)


def print_warnings(console: Console, file: Path, warnings: list[str]) -> None:
    """Print warnings with the name of the file in place of the form's part."""
    for warning in warnings:
        console.print(Text(f"warning: {with_file_name(warning, file)}", style="yellow"))
