"""Read a few-shot dataset from a local JSONL or CSV file."""

from pathlib import Path

from app.adaptations.dataset_file import FORMATS, ColumnsError, DatasetFileError, Row, format_of, read_rows
from app.cli.output import CliError


def read_dataset(path: Path, input_column: str | None = None, output_column: str | None = None) -> list[Row]:
    """Return the file's rows as ``{"input": …, "output": …}``.

    Raises:
        CliError: the file cannot be read or parsed; the message names file, line and column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error
    file_format = format_of(path.name)
    if file_format is None:
        *most, last = (f".{suffix}" for suffix in FORMATS)
        raise CliError(f"{path}: expected a {', '.join(most)} or {last} file")
    try:
        return [row for _, row in read_rows(data, file_format, input_column, output_column)]
    except ColumnsError as error:
        wrong = ""
        if error.missing is not None:
            wrong = f"there is no column {error.missing!r}; "
        elif error.ambiguous is not None:
            wrong = f"the texts and the labels would both be the column {error.ambiguous!r}; "
        raise CliError(
            f"{path}: {wrong}the columns are {', '.join(map(repr, error.columns))}: name two of them "
            "with --input-column and --output-column"
        ) from error
    except DatasetFileError as error:
        place = "" if error.line is None else f":{error.line}"
        field = "" if error.field is None else f" {error.field}:"
        raise CliError(f"{path}{place}:{field} {error.message}") from error
