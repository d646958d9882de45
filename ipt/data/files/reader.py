"""Read a few-shot dataset from a file of any usual format: the one reader of the API, the command line and Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path, PurePath

from ipt.data.files import plain_text
from ipt.data.files.annotation_formats import Reading
from ipt.data.files.collected import CollectedRows
from ipt.data.files.columns import ColumnsError, check_columns, choose_columns
from ipt.data.files.containers import container_of, decompress
from ipt.data.files.delimited import DELIMITERS, Cells, find_dialect, rows_of, unwrapped_rows
from ipt.data.files.encodings import decode, doubt_about
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.json_records import json_records, looks_like_json
from ipt.data.files.record_rows import SAMPLE_ROWS, Options, Record, Rows, one_hot_rows, plain_rows, record_rows
from ipt.data.files.source import DatasetFile, Source
from ipt.data.files.tables import parquet_rows, workbook_sheets
from ipt.data.names import is_short_name, listed
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
_HEADER_ROWS = 10
_WORDS_OF_A_NAME = 3


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
    multilabel: bool = False,
    label_separator: str | None = None,
) -> DatasetFile:
    """Read a few-shot dataset from a local file.

    >>> file = ipt.read_dataset_file("tickets.csv")
    >>> task = ipt.adapt(backbone, subspace, file.examples)

    Args:
        path: a JSON, JSON lines, CSV, TSV, Excel or Parquet file, an export of an annotation tool, or any of them
            compressed with gzip.
        format: one of `FORMATS`, if neither the suffix nor the content says it.
        charset: of a text file that is not in UTF-8.
        input_column, output_column: the columns to read, if their names are not usual ones; nested keys have dots, such
            as `data.text`, and columns between commas, such as `title,body`, are joined to one input.
        multilabel: read outputs as lists of labels, for a multi-label task.
        label_separator: what separates the labels in a cell; implies `multilabel`.

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
            multilabel=multilabel,
            label_separator=label_separator,
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
    multilabel: bool = False,
    label_separator: str | None = None,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
) -> DatasetFile:
    """Read a few-shot dataset from the bytes of a file, in time linear in their number.

    Args:
        data: the file.
        format: one of `FORMATS`, from the caller or from the file's name; the content decides where it differs.
        charset: the declared charset of a text file; a byte order mark comes first.
        input_column, output_column: the columns to read, if their names are not usual ones.
        multilabel: read outputs as lists of labels.
        label_separator: what separates the labels in a cell; implies `multilabel`.
        max_rows: after one row more, the rest of the file is not read.
        max_bytes: most bytes after decompression.

    Raises:
        DatasetFileError: the file is not valid; the error says where, and quotes no text of the file.
    """
    if not data:
        raise DatasetFileError("the file is empty: it has no rows")
    data, compressed = decompress(data, max_bytes)
    options = Options(input_column, output_column, max_rows, max_bytes)
    rows = _rows_of_container(data, format, charset, options)
    collected = CollectedRows(multilabel=multilabel or label_separator is not None, separator=label_separator)
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


def _rows_of_container(data: bytes, file_format: str | None, charset: str | None, options: Options) -> Rows:
    container = container_of(data)
    if container == "xlsx":
        return _workbook(data, options)
    if container == "parquet":
        return record_rows("parquet", parquet_rows(data, options.max_bytes, options.max_rows), options)
    text, encoding = decode(data, charset)
    table = _rows_of_text(text, file_format, options)
    table.encoding = encoding
    if note := doubt_about(data, encoding):
        table.notes.append(note)
    return table


def _rows_of_text(text: str, file_format: str | None, options: Options) -> Rows:
    if not text.strip():
        raise DatasetFileError("the file is blank: it has no rows")
    if plain_text.looks_like_sections(text):
        raise DatasetFileError("the file looks like INI or TOML: save its rows as JSON lines or CSV")
    if looks_like_json(text) and (file_format not in ("csv", "tsv") or _starts_with_json_row(text)):
        notes: list[str] = []
        name, records = json_records(text, options.has_both, notes)
        rows = record_rows(name, records, options)
        notes += rows.notes
        rows.notes = notes
        return rows
    if plain_text.looks_like_fasttext(text):
        return _labeled("fastText", plain_text.fasttext_rows(text))
    if plain_text.looks_like_rasa(text):
        return _labeled("Rasa", plain_text.rasa_rows(text))
    unwrapped = unwrapped_rows(text, options.has_both)
    text = text if unwrapped is None else unwrapped
    preferred = "\t" if file_format == "tsv" else ","
    dialect = find_dialect(text, preferred, options.has_both, options.max_rows)
    cells = rows_of(text, dialect)
    if file_format in _JSON_FORMATS:
        cells = _below_known_header(cells, text, options)
    elif fault := plain_text.other_language(text):
        raise DatasetFileError(fault)
    name = "tsv" if dialect.delimiter == "\t" else "csv"
    rows = _table(name, cells, options, known_format=file_format is not None)
    rows.delimiter = DELIMITERS.get(dialect.delimiter, dialect.delimiter)
    rows.notes += dialect.notes
    if unwrapped is not None:
        rows.notes.append("each row is one cell in quotes, and is read as a row of its own")
    return rows


def _workbook(data: bytes, options: Options) -> Rows:
    """Return the rows of the first sheet with a usual header, or of the first one with rows."""
    sheets = [(name, *_below_titles(rows, options)) for name, rows in workbook_sheets(data, options.max_bytes)]
    if not sheets:
        raise DatasetFileError("the workbook has no rows")
    number = next((number for number, sheet in enumerate(sheets) if options.has_both(sheet[1][0][1])), 0)
    name, rows, notes = sheets[number]
    table = _table("xlsx", iter(rows), options)
    others = [repr(other) if is_short_name(other) else "one with a long name" for other, *_ in sheets if other != name]
    read = f"the sheet {name!r} is read" if is_short_name(name) else f"sheet {number + 1} is read"
    table.notes += [read + (f"; left out: {listed(others)}" if others else ""), *notes]
    return table


def _below_known_header(rows: Iterator[Cells], text: str, options: Options) -> Iterator[Cells]:
    """Return the rows of a table in a file that should be JSON, if its header is a usual one."""
    try:
        first = next(rows, None)
    except DatasetFileError:
        first = None
    if first is None or not options.has_both(first[1]):
        line = text[: len(text) - len(text.lstrip())].count("\n") + 1
        raise DatasetFileError(
            'not JSON: expected a JSON object such as {"input": "…", "output": "…"} on every line, or an array of '
            "objects; for CSV, send format=csv",
            line=line,
        )
    return chain([first], rows)


def _below_titles(rows: Sequence[Cells], options: Options) -> tuple[Sequence[Cells], list[str]]:
    """Return the rows of a sheet from a usual header on, and a note if there are rows above it."""
    above = next((number for number, (_, cells) in enumerate(rows[:_HEADER_ROWS]) if options.has_both(cells)), 0)
    return rows[above:], [f"rows above the header are left out: {above}"] if above else []


def _starts_with_json_row(text: str) -> bool:
    """Return whether a file that should be CSV has JSON in its first row: a name in quotes before a colon."""
    return text.lstrip()[1:200].lstrip(" \t\r\n{[").partition(":")[0].strip().startswith('"')


def _labeled(name: str, rows: Iterable[tuple[int, str, object]]) -> Rows:
    return Rows(name, ((line, Reading(text, label)) for line, text, label in rows))


def _table(name: str, rows: Iterator[tuple[int, list[str]]], options: Options, *, known_format: bool = True) -> Rows:
    line, header = next(rows, (1, []))
    check_columns(header, line)
    names = [cell.strip() for cell in header]
    if names and all(name[:1] in "“„”" and name[-1:] in "“”" and len(name) > 1 for name in names):
        raise DatasetFileError('the file has typographic quotes, such as “text”: replace them by straight ones, "text"')
    if len([name for name in names if name]) < 2 and not known_format:
        raise DatasetFileError(
            "unknown format: neither JSON nor columns between tabs, commas or semicolons: save it as CSV with a header "
            f"such as text,label, or as JSON lines; send one of {', '.join(FORMATS)} as format"
        )
    sample = list(islice(rows, SAMPLE_ROWS))
    first = [(line, dict(zip(header, cells, strict=False))) for line, cells in sample]
    records: Iterator[tuple[int, Record]] = chain(
        first, ((line, dict(zip(header, cells, strict=False))) for line, cells in rows)
    )
    hint = _missing_header_hint(names, [cells for _, cells in sample])
    try:
        columns = choose_columns(header, options.input_column, options.output_column, hint)
    except ColumnsError as error:
        rows_of_labels = one_hot_rows(name, header, [record for _, record in first], records, options)
        if rows_of_labels is None:
            raise ColumnsError(error.message, line=line if hint else None) from None
        return rows_of_labels
    return plain_rows(name, records, header, columns, options)


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
