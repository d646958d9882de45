"""Read the examples of a local dataset file as JSON rows, and name its lines in the service's answers."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.output import CliError
from app.cli.upload import with_options

if TYPE_CHECKING:
    from ipt.data.files.source import DatasetFile

Row = dict[str, str]

_PLACE = re.compile(r"\bexamples\[(\d+)\](?:\.(?:input|output))?")


def read_dataset(
    path: Path, *, multilabel: bool = False, label_separator: str | None = None, **how: Any
) -> "DatasetFile":
    """Return the file's examples with their lines.

    Args:
        path: the file.
        multilabel: read outputs as lists of labels.
        label_separator: what separates the labels in a cell.
        how: `input_column`, `output_column` and `charset`, if the file needs them.

    Raises:
        CliError: the file cannot be read or parsed; the message names file, line and column.
    """
    from ipt.data.files.reader import read_dataset_file
    from ipt.errors import DatasetError

    try:
        return read_dataset_file(path, multilabel=multilabel, label_separator=label_separator, **how)
    except DatasetError as error:
        raise CliError(with_options(error.message)) from error


def rows_of(file: "DatasetFile") -> list[Row]:
    """Return the examples as ``{"input": …, "output": …}``."""
    return [{"input": example.input, "output": example.output} for example in file.examples]


def with_lines(message: str, path: Path, file: "DatasetFile") -> str:
    """Replace places such as `examples[3]` by places such as `tickets.csv:5`."""

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"{path}:{file.lines[number]}" if number < len(file.lines) else match[0]

    return _PLACE.sub(place, message)
