"""Read a few-shot dataset from a JSONL or CSV file; what its rows may hold is for the service to judge."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from app.cli.output import CliError

# Tried in this order when no columns are named: the project's own words, then what datasets commonly use.
_USUAL_COLUMNS = (("input", "output"), ("text", "label"))

Row = dict[str, str]


def read_dataset(path: Path, input_column: str | None = None, output_column: str | None = None) -> list[Row]:
    """The file's rows as ``{"input": …, "output": …}``.

    Raises:
        CliError: naming file, line and column, and what was expected.
    """
    try:
        # Line ends are left as they are: inside quotes they belong to the text.
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise CliError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        records = list(_csv_records(path, text))
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        records = list(_jsonl_records(path, text))
    else:
        raise CliError(f"{path}: expected a .jsonl, .ndjson, .csv or .tsv file")
    if not records:
        raise CliError(f"{path}: no rows")
    _, first = records[0]
    columns = _choose_columns(path, list(first), input_column, output_column)
    return [{"input": _cell(path, n, row, columns[0]), "output": _cell(path, n, row, columns[1])} for n, row in records]


def _jsonl_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise CliError(f"{path}:{number}: not JSON ({reason}); every line must be one JSON object") from error
        if not isinstance(row, dict):
            raise CliError(f'{path}:{number}: expected a JSON object such as {{"input": "…", "output": "…"}}')
        yield number, row


def _csv_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row:
                raise CliError(
                    f"{path}:{reader.line_num}: more cells than the header has columns; quote text with commas"
                )
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise CliError(f"{path}:{reader.line_num + 1}: {error}") from error


def _choose_columns(
    path: Path, names: list[str], input_column: str | None, output_column: str | None
) -> tuple[str, str]:
    if input_column is None or output_column is None:
        for usual in _USUAL_COLUMNS:
            chosen = (input_column or usual[0], output_column or usual[1])
            if set(chosen) <= set(names):
                return chosen
        raise CliError(
            f"{path}: the columns are {', '.join(map(repr, names))}: name two of them "
            "with --input-column and --output-column"
        )
    for column in (input_column, output_column):
        if column not in names:
            raise CliError(f"{path}: there is no column {column!r}; the columns are {', '.join(map(repr, names))}")
    return input_column, output_column


def _cell(path: Path, number: int, row: dict[str, object], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        expected = "a text" if column in row and value is not None else "a value"
        raise CliError(f"{path}:{number}: expected {expected} in {column!r}, got {json.dumps(value, default=str)}")
    return value
