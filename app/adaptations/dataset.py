"""Read a few-shot dataset from the bytes of a JSONL or CSV file; what its texts may say is for the service to judge.

No error's message quotes the file, since it is told to callers.
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
# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)
# Tried in this order when no columns are named: the project's own words, then what datasets commonly use.
_USUAL_COLUMNS = (("input", "output"), ("text", "label"))
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
_MOST_DIGITS = 300
# What separates columns somewhere; the first two here as well.
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_QUOTED = re.compile(r'"[^"]*"')
# The most that every platform's C has a number for.
_ANY_LENGTH = 2**31 - 1


class DatasetFileError(Exception):
    """A file that is no dataset. `line` counts from 1, and is where the row starts; `field` is `input` or `output`."""

    def __init__(self, message: str, *, line: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.field = field


class ColumnsError(DatasetFileError):
    """Of the file's `columns` no two can be told to be those of the texts and of the labels.

    It lacks the one that was `wanted`, or all the usual ones; or one column, `both`, would have to be the two.
    """

    def __init__(self, columns: list[str], wanted: str | None = None, both: str | None = None) -> None:
        if wanted is not None:
            message = "there is no such column"
        elif both is not None:
            message = "input_column and output_column come to the same column"
        else:
            message = "no columns input and output, or text and label"
        super().__init__(f"{message}: name two columns of the file with input_column and output_column")
        self.columns = columns
        self.wanted = wanted
        self.both = both


def format_of(name: str, content_type: str = "") -> str | None:
    """The format that a file's suffix says, or else its media type; None when neither says one."""
    suffix = PurePath(name).suffix.lower().removeprefix(".")
    return suffix if suffix in FORMATS else _FORMAT_OF_TYPE.get(content_type.partition(";")[0].strip().lower())


def read_rows(
    data: bytes, file_format: str, input_column: str | None = None, output_column: str | None = None
) -> Iterator[tuple[int, Row]]:
    """The rows as ``{"input": …, "output": …}``, each with the line it starts in, read as they are asked for.

    Raises:
        DatasetFileError: saying where, what was wrong, and what was expected.
    """
    text = _decode(data)
    records = _csv_records(text, file_format) if file_format in ("csv", "tsv") else _jsonl_records(text)
    columns = None
    for line, record in records:
        columns = columns or _choose_columns(list(record), input_column, output_column)
        yield line, {field: _text(record, column, line, field) for field, column in columns.items()}
    if columns is None:
        raise DatasetFileError("no rows")


def load_json(text: str) -> Any:
    """One JSON value: no NaN, and no key twice in an object, of which Python would keep the last.

    Raises:
        ValueError: saying what is wrong.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decode(data: bytes) -> str:
    mark, encoding = next((known for known in _BYTE_ORDER_MARKS if data.startswith(known[0])), (b"", "UTF-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        line = data[len(mark) : at].decode(encoding).count("\n") + 1
        message = f"not {encoding} text: byte 0x{data[at]:02x} at offset {at}; save the file as UTF-8"
        raise DatasetFileError(message, line=line) from None
    nul = text.find("\x00")
    if nul >= 0:
        message = "a NUL character, which no text has: save the file as UTF-8"
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
    # Line ends are left as they are: inside quotes they belong to the text.
    lines = io.StringIO(text, newline="")
    _check_delimiter(lines, file_format, delimiter)
    # How long a text may be is for the service to say, whatever the format; other columns may hold what they like.
    csv.field_size_limit(_ANY_LENGTH)
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
                more = "more" if len(cells) > len(header) else "fewer"
                message = f"{more} cells than the header's {len(header)}; quote texts with commas, tabs or line breaks"
                raise DatasetFileError(message, line=line)
            else:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        message = f"not {file_format.upper()} ({error}); quote a text with quotes in it, and double those"
        raise DatasetFileError(message, line=start) from None


def _check_delimiter(lines: io.StringIO, file_format: str, delimiter: str) -> None:
    """Refuse a header that something else separates, before the quotes around its names seem to be wrong."""
    number, header = next(((number, line) for number, line in enumerate(lines, start=1) if line.strip()), (1, ""))
    lines.seek(0)
    outside_quotes = _QUOTED.sub("", header)
    if delimiter in outside_quotes or '"' in outside_quotes:  # the latter where a name has a line break
        return
    for other, name in _DELIMITERS.items():
        if other in outside_quotes:
            expected = f"where {file_format.upper()} has {_DELIMITERS[delimiter]}"
            way_out = "save the file with commas and send it as CSV, or with tabs and send it as TSV"
            message = f"the columns seem to be separated by {name}, {expected}: {way_out}"
            raise DatasetFileError(message, line=number)


def _check_header(names: list[str], line: int) -> None:
    for position, name in enumerate(names):
        first = names.index(name)
        if first != position:
            message = f"columns {first + 1} and {position + 1} of the header have the same name"
            raise DatasetFileError(message, line=line)


def _choose_columns(names: list[str], input_column: str | None, output_column: str | None) -> dict[str, str]:
    for column in (input_column, output_column):
        if column is not None and column not in names:
            raise ColumnsError(names, column)
    both = None
    for usual in _USUAL_COLUMNS:
        chosen = {
            "input": usual[0] if input_column is None else input_column,
            "output": usual[1] if output_column is None else output_column,
        }
        if chosen["input"] == chosen["output"]:
            both = chosen["input"]
        elif set(chosen.values()) <= set(names):
            return chosen
    raise ColumnsError(names, both=both)


def _text(record: dict[str, Any], column: str, line: int, field: str) -> str:
    text = record.get(column)
    if text is None:
        raise DatasetFileError("expected a text, there is none", line=line, field=field)
    if not isinstance(text, str):
        raise DatasetFileError(f"expected a text in quotes, got {_KINDS[type(text)]}", line=line, field=field)
    # Only an escape in JSON can have brought these.
    if "\x00" in text:
        raise DatasetFileError("holds a NUL character, which cannot be stored", line=line, field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DatasetFileError("holds a lone surrogate, which is not text", line=line, field=field) from None
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("the same key twice in an object")
    return made


def _constant(_: str) -> None:
    raise ValueError("NaN and Infinity are no numbers in JSON")


def _integer(digits: str) -> float:
    # Python refuses to read numbers of thousands of digits, in words that no caller understands.
    return int(digits) if len(digits) < _MOST_DIGITS else math.inf
