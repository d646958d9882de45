"""Parse a few-shot dataset from the bytes of a JSONL, CSV or TSV file.

Error messages go to callers and never quote the file. Limits on texts are checked by the service.
"""

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from app.http.json_structure import check_structure

Row = dict[str, str]

FORMATS = ("jsonl", "ndjson", "csv", "tsv")
_FORMAT_OF_TYPE = {
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/ndjson": "ndjson",
    "application/x-ndjson": "ndjson",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
}
# UTF-32-LE's mark starts with UTF-16-LE's, so it must be tried first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)
# Tried in this order for columns that the caller does not name.
_DEFAULT_COLUMNS = (("input", "output"), ("text", "label"))
_JSON_TYPES = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
_MAX_DIGITS = 300
_MAX_COLUMNS = 1000
_MAX_ROW_VALUES = 100_000
# Delimiters that spreadsheets write; only the first two are supported.
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_QUOTED = re.compile(r'"[^"]*"')
# The largest C long on every platform.
_MAX_FIELD_SIZE = 2**31 - 1


class DatasetFileError(Exception):
    """An invalid dataset file. `line` is where the row starts, from 1; `field` is `input` or `output`."""

    def __init__(self, message: str, *, line: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.field = field


class ColumnsError(DatasetFileError):
    """The input and output columns cannot be chosen from the file's `columns`.

    Either the named column `missing` is not in the file, or one column, `ambiguous`, would be both input and output,
    or the file has none of the default columns.
    """

    def __init__(self, columns: list[str], missing: str | None = None, ambiguous: str | None = None) -> None:
        if missing is not None:
            message = "the file has no column of this name"
        elif ambiguous is not None:
            message = "input_column and output_column are the same column"
        else:
            message = "the file has no columns input and output, or text and label"
        super().__init__(f"{message}: name two columns of the file with input_column and output_column")
        self.columns = columns
        self.missing = missing
        self.ambiguous = ambiguous


def format_of(name: str, content_type: str = "") -> str | None:
    """Return the format of a file by its suffix, or else by its media type; None if neither is known."""
    suffix = PurePath(name).suffix.lower().removeprefix(".")
    return suffix if suffix in FORMATS else _FORMAT_OF_TYPE.get(content_type.partition(";")[0].strip().lower())


def read_rows(
    data: bytes, file_format: str, input_column: str | None = None, output_column: str | None = None
) -> Iterator[tuple[int, Row]]:
    """Yield each row as ``{"input": …, "output": …}`` with the line it starts on; rows are parsed lazily.

    Args:
        data: the file.
        file_format: one of `FORMATS`.
        input_column: the column of the inputs; `input`, or else `text`, when None.
        output_column: the column of the outputs; `output`, or else `label`, when None.

    Raises:
        DatasetFileError: the file is not valid; the error says where.
    """
    text = _decode(data)
    records = _csv_records(text, file_format) if file_format in ("csv", "tsv") else _jsonl_records(text)
    columns = None
    for line, record in records:
        columns = columns or _choose_columns(list(record), input_column, output_column)
        yield line, {field: _text(record, column, line, field) for field, column in columns.items()}
    if columns is None:
        raise DatasetFileError("the file has no rows")


def load_json(text: str) -> Any:
    """Parse one JSON value strictly: no NaN, no infinity, no repeated keys.

    Raises:
        ValueError: the text is not valid JSON, or has too many or too deeply nested values.
    """
    check_structure(text, _MAX_ROW_VALUES)
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_reject_constant, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None


def _decode(data: bytes) -> str:
    mark, encoding = next((entry for entry in _BYTE_ORDER_MARKS if data.startswith(entry[0])), (b"", "UTF-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        offset = len(mark) + error.start
        line = data[len(mark) : offset].decode(encoding).count("\n") + 1
        message = f"not {encoding} text: byte 0x{data[offset]:02x} at offset {offset}; save the file as UTF-8"
        raise DatasetFileError(message, line=line) from None
    nul = text.find("\x00")
    if nul >= 0:
        message = "a NUL character is not allowed in text: save the file as UTF-8"
        raise DatasetFileError(message, line=text.count("\n", 0, nul) + 1)
    return text


def _jsonl_records(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            record = load_json(line)
        except ValueError as error:
            message = f"not JSON ({error}); every line must be one JSON object"
            raise DatasetFileError(message, line=number) from None
        if not isinstance(record, dict):
            raise DatasetFileError('expected a JSON object such as {"input": "…", "output": "…"}', line=number)
        yield number, record


def _csv_records(text: str, file_format: str) -> Iterator[tuple[int, dict[str, Any]]]:
    delimiter = "\t" if file_format == "tsv" else ","
    delimiters = _DELIMITERS[delimiter]
    # Keep line ends as they are: inside quotes they are part of the text.
    lines = io.StringIO(text, newline="")
    _check_delimiter(lines, file_format, delimiter)
    # The service limits the length of texts for every format alike; unused columns may hold any length.
    csv.field_size_limit(_MAX_FIELD_SIZE)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if len(cells) < 2 and not "".join(cells).strip():
                continue
            if header is None:
                header = cells
                _check_header(header, line)
            elif len(cells) != len(header):
                relation = "more" if len(cells) > len(header) else "fewer"
                message = (
                    f"{relation} cells than the header's {len(header)}; quote texts with {delimiters} or line breaks"
                )
                raise DatasetFileError(message, line=line)
            else:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        message = f"not {file_format.upper()} ({error}); enclose a text with quotes in quotes and double the inner ones"
        raise DatasetFileError(message, line=start) from None


def _check_delimiter(lines: io.StringIO, file_format: str, delimiter: str) -> None:
    """Reject a header with another delimiter, which would otherwise be reported as a quoting error."""
    number, header = next(((number, line) for number, line in enumerate(lines, start=1) if line.strip()), (1, ""))
    lines.seek(0)
    outside_quotes = _QUOTED.sub("", header)
    if delimiter in outside_quotes or '"' in outside_quotes:  # an open quote: the name has a line break
        return
    for other, name in _DELIMITERS.items():
        if other in outside_quotes:
            expected = f"where {file_format.upper()} has {_DELIMITERS[delimiter]}"
            fix = "save the file with commas and send it as CSV, or with tabs and send it as TSV"
            message = f"the columns seem to be separated by {name}, {expected}: {fix}"
            raise DatasetFileError(message, line=number)


def _check_header(names: list[str], line: int) -> None:
    if len(names) > _MAX_COLUMNS:
        message = f"the header has {len(names)} columns, at most {_MAX_COLUMNS} are supported: remove unused columns"
        raise DatasetFileError(message, line=line)
    first_of: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = first_of.setdefault(name, number)
        if first != number:
            raise DatasetFileError(f"columns {first} and {number} of the header have the same name", line=line)


def _choose_columns(names: list[str], input_column: str | None, output_column: str | None) -> dict[str, str]:
    for column in (input_column, output_column):
        if column is not None and column not in names:
            raise ColumnsError(names, column)
    ambiguous = None
    for default_input, default_output in _DEFAULT_COLUMNS:
        columns = {
            "input": default_input if input_column is None else input_column,
            "output": default_output if output_column is None else output_column,
        }
        if columns["input"] == columns["output"]:
            ambiguous = columns["input"]
        elif set(columns.values()) <= set(names):
            return columns
    raise ColumnsError(names, ambiguous=ambiguous)


def _text(record: dict[str, Any], column: str, line: int, field: str) -> str:
    text = record.get(column)
    if text is None:
        raise DatasetFileError("expected a text, got no value", line=line, field=field)
    if not isinstance(text, str):
        raise DatasetFileError(f"expected a text in quotes, got {_JSON_TYPES[type(text)]}", line=line, field=field)
    # NUL and lone surrogates can only come from JSON escapes: `_decode` rejects them in the file itself.
    if "\x00" in text:
        raise DatasetFileError("has a NUL character, which cannot be stored", line=line, field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DatasetFileError("has a lone surrogate, which is not valid Unicode", line=line, field=field) from None
    return text


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("the same key twice in an object")
    return values


def _reject_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON numbers")


def _parse_int(digits: str) -> float:
    # Python raises an error about its own settings for integers of thousands of digits.
    return int(digits) if len(digits) < _MAX_DIGITS else math.inf
