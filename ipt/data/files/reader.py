"""Read a few-shot dataset from a file of any usual format: the one reader of the API, the command line and Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Any

from ipt.data.files import plain_text
from ipt.data.files.annotation_formats import Reading, recognize
from ipt.data.files.collected import CollectedRows
from ipt.data.files.columns import MAX_COLUMNS, ColumnsError, check_columns, choose_columns, is_usual_input
from ipt.data.files.containers import container_of, decompress
from ipt.data.files.delimited import DELIMITERS, find_dialect, rows_of
from ipt.data.files.encodings import decode
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.json_records import json_records, looks_like_json
from ipt.data.files.source import DatasetFile, Source
from ipt.data.files.tables import parquet_rows, workbook_rows
from ipt.errors import DatasetError

MAX_BYTES = 16 * 1024 * 1024
MAX_ROWS = 10_000
FORMATS = ("jsonl", "ndjson", "json", "csv", "tsv")
"""Formats that a caller can name; every other format is recognized by its content."""
_FORMAT_OF_TYPE = {
    "application/json": "json",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/ndjson": "ndjson",
    "application/x-ndjson": "ndjson",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
}
_JSON_FORMATS = ("jsonl", "ndjson", "json")
_SAMPLE_ROWS = 50
_WORDS_OF_A_NAME = 3

Record = Mapping[str, Any]


@dataclass
class _Rows:
    """The rows of a file before they are checked, and how they were found."""

    format: str
    readings: Iterator[tuple[int, Reading]]
    encoding: str | None = None
    delimiter: str | None = None
    columns: dict[str, str] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Options:
    input_column: str | None
    output_column: str | None
    max_rows: int
    max_bytes: int


def format_of(name: str, content_type: str = "") -> str | None:
    """Return the format of a file by its suffix, or else by its media type; None if neither is known."""
    suffixes = [suffix.lower().removeprefix(".") for suffix in PurePath(name).suffixes[-2:]]
    suffix = suffixes[0] if len(suffixes) == 2 and suffixes[1] == "gz" else (suffixes or [""])[-1]
    return suffix if suffix in FORMATS else _FORMAT_OF_TYPE.get(content_type.partition(";")[0].strip().lower())


def read_dataset_file(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the name of the API's field
    charset: str | None = None,
    input_column: str | None = None,
    output_column: str | None = None,
) -> DatasetFile:
    """Read a few-shot dataset from a local file.

    >>> file = ipt.read_dataset_file("tickets.csv")
    >>> task = ipt.adapt(backbone, subspace, file.examples)

    Args:
        path: a JSON, JSON lines, CSV, TSV, Excel or Parquet file, an export of an annotation tool, or any of them
            compressed with gzip.
        format: one of `FORMATS`, if neither the suffix nor the content says it.
        charset: of a text file that is not in UTF-8.
        input_column, output_column: the columns to read, if their names are not usual ones.

    Raises:
        DatasetError: the file cannot be read, or a row is invalid; the message names file and line.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    try:
        return read_dataset(
            data,
            format=format or format_of(path.name),
            charset=charset,
            input_column=input_column,
            output_column=output_column,
        )
    except DatasetFileError as error:
        place = "" if error.line is None else f":{error.line}"
        field_name = "" if error.field is None else f" {error.field}:"
        raise DatasetError(f"{path}{place}:{field_name} {error.message}") from error


def read_dataset(
    data: bytes,
    *,
    format: str | None = None,  # noqa: A002 - the name of the API's field
    charset: str | None = None,
    input_column: str | None = None,
    output_column: str | None = None,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
) -> DatasetFile:
    """Read a few-shot dataset from the bytes of a file, in time linear in their number.

    Args:
        data: the file.
        format: one of `FORMATS`, from the caller or from the file's name; the content decides where it differs.
        charset: the declared charset of a text file; a byte order mark comes first.
        input_column, output_column: the columns to read, if their names are not usual ones.
        max_rows: after one row more, the rest of the file is not read.
        max_bytes: most bytes after decompression.

    Raises:
        DatasetFileError: the file is not valid; the error says where, and quotes no text of the file.
    """
    if not data:
        raise DatasetFileError("the file is empty: it has no rows")
    data, compressed = decompress(data, max_bytes)
    options = _Options(input_column, output_column, max_rows, max_bytes)
    rows = _rows_of_container(data, format, charset, options)
    collected = CollectedRows()
    for line, reading in islice(rows.readings, max_rows + 1):
        collected.add(line, reading)
    collected.check()
    source = Source(
        format=rows.format,
        encoding=rows.encoding,
        delimiter=rows.delimiter,
        compression="gzip" if compressed else None,
        columns=rows.columns,
        rows=len(collected.examples),
        skipped=collected.skipped,
        skipped_rows=tuple(collected.skipped_rows),
        notes=tuple(rows.notes),
    )
    return DatasetFile(collected.examples, collected.lines, source)


def _rows_of_container(data: bytes, file_format: str | None, charset: str | None, options: _Options) -> _Rows:
    container = container_of(data)
    if container == "xlsx":
        return _table("xlsx", workbook_rows(data, options.max_bytes), options)
    if container == "parquet":
        return _records("parquet", parquet_rows(data, options.max_bytes, options.max_rows), options)
    text, encoding = decode(data, charset)
    rows = _rows_of_text(text, file_format, options)
    rows.encoding = encoding
    return rows


def _rows_of_text(text: str, file_format: str | None, options: _Options) -> _Rows:
    if not text.strip():
        raise DatasetFileError("the file is blank: it has no rows")
    if looks_like_json(text) and (file_format not in ("csv", "tsv") or _starts_with_json_row(text)):
        name, records = json_records(text)
        return _records(name, records, options)
    if file_format in _JSON_FORMATS:
        line = text[: len(text) - len(text.lstrip())].count("\n") + 1
        raise DatasetFileError(
            'not JSON: expected a JSON object such as {"input": "…", "output": "…"} on every line, or an array of '
            "objects; for CSV, send format=csv",
            line=line,
        )
    if plain_text.looks_like_fasttext(text):
        return _labeled("fastText", plain_text.fasttext_rows(text))
    if plain_text.looks_like_rasa(text):
        return _labeled("Rasa", plain_text.rasa_rows(text))

    def is_known(header: Sequence[str]) -> bool:
        try:
            choose_columns(header, options.input_column, options.output_column)
        except ColumnsError:
            return False
        return True

    preferred = "\t" if file_format == "tsv" else ","
    dialect = find_dialect(text, preferred, is_known, options.max_rows)
    name = "tsv" if dialect.delimiter == "\t" else "csv"
    rows = _table(name, rows_of(text, dialect), options, known_format=file_format is not None)
    rows.delimiter = DELIMITERS.get(dialect.delimiter, dialect.delimiter)
    rows.notes += dialect.notes
    return rows


def _starts_with_json_row(text: str) -> bool:
    """Return whether a file that should be CSV has JSON in its first row: a name in quotes before a colon."""
    return text.lstrip()[1:200].lstrip(" \t\r\n{[").partition(":")[0].strip().startswith('"')


def _labeled(name: str, rows: Iterator[tuple[int, str, str]]) -> _Rows:
    return _Rows(name, ((line, Reading(text, label)) for line, text, label in rows))


def _table(name: str, rows: Iterator[tuple[int, list[str]]], options: _Options, *, known_format: bool = True) -> _Rows:
    line, header = next(rows, (1, []))
    check_columns(header, line)
    names = [cell.strip() for cell in header]
    if len([name for name in names if name]) < 2 and not known_format:
        raise DatasetFileError(
            f"unknown format: neither JSON nor columns between tabs, commas or semicolons; send one of "
            f"{', '.join(FORMATS)} as format"
        )
    sample = list(islice(rows, _SAMPLE_ROWS))
    records = ((line, dict(zip(header, cells, strict=False))) for line, cells in chain(sample, rows))
    hint = _missing_header_hint(names, [cells for _, cells in sample])
    try:
        columns = choose_columns(header, options.input_column, options.output_column, hint)
    except ColumnsError as error:
        one_hot = None if options.input_column or options.output_column else _one_hot(header, sample)
        if one_hot is None:
            raise ColumnsError(error.message, line=line if hint else None) from None
        return _Rows(f"{name} (one column per label)", _one_hot_readings(records, *one_hot))
    text, label = columns
    readings = ((line, Reading(record.get(text), _unwrapped_cell(record.get(label)))) for line, record in records)
    return _Rows(name, readings, columns={"input": text.strip(), "output": label.strip()})


def _missing_header_hint(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a hint if the first row looks like an example: it has long texts, or values that occur below again."""
    long = any(len(name.split()) > _WORDS_OF_A_NAME for name in names)
    repeated = any(
        name and any(len(cells) > number and cells[number].strip() == name for cells in rows)
        for number, name in enumerate(names)
    )
    if not long and not repeated:
        return ""
    return " (no header? the first row looks like an example: put a row with the names of the columns above it)"


def _one_hot(header: Sequence[str], sample: Sequence[tuple[int, Sequence[str]]]) -> tuple[str, list[str]] | None:
    """Return the input column and the columns of the labels, if each of at least two further columns is 0 or 1."""
    inputs = [name for name in header if is_usual_input(name)]
    if len(inputs) != 1 or not sample:
        return None
    position = header.index(inputs[0])
    flags = [
        number
        for number, name in enumerate(header)
        if name.strip()
        and number != position
        and all(len(cells) > number and cells[number].strip().lower() in _FLAGS for _, cells in sample)
    ]
    labels = [header[number] for number in flags]
    one_each = all(sum(_FLAGS[cells[number].strip().lower()] for number in flags) == 1 for _, cells in sample)
    return (inputs[0], labels) if len(labels) >= 2 and one_each else None


_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def _one_hot_readings(
    records: Iterator[tuple[int, Record]], text: str, labels: Sequence[str]
) -> Iterator[tuple[int, Reading]]:
    for line, record in records:
        chosen = [name.strip() for name in labels if _FLAGS.get(str(record.get(name, "")).strip().lower())]
        yield line, Reading(record.get(text), chosen)


def _records(name: str, records: Iterator[tuple[int, Record]], options: _Options) -> _Rows:
    sample = list(islice(records, _SAMPLE_ROWS))
    known = None
    if options.input_column is None and options.output_column is None:
        known = recognize([dict(record) for _, record in sample])
    records = chain(sample, records)
    if known is not None:
        readings = ((line, known.read(dict(record))) for line, record in records)
        rows = _Rows(f"{name} ({known.name})", readings)
        if known.name == "prompt and completion":
            rows.columns = {"input": "prompt", "output": "completion"}
        return rows
    names = list(dict.fromkeys(column for _, record in sample for column in islice(record, MAX_COLUMNS + 1)))
    if len(names) > MAX_COLUMNS:
        raise DatasetFileError(f"a row has more than {MAX_COLUMNS} columns: remove unused ones", line=sample[0][0])
    if not sample:
        raise DatasetFileError("the file has no rows")
    text, label = choose_columns(names, options.input_column, options.output_column)
    readings = ((line, Reading(record.get(text), record.get(label))) for line, record in records)
    return _Rows(name, readings, columns={"input": text, "output": label})


def _unwrapped_cell(cell: str | None) -> object:
    """Return the choices in a cell of Label Studio's CSV export, or else the cell."""
    if cell is None or not cell.startswith('{"choices"') or len(cell) > 10_000:
        return cell
    try:
        choices: object = json.loads(cell)["choices"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return cell
    return choices
