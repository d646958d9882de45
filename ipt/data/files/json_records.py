"""Read the rows of JSON files: one object per line, an array, objects over several lines, or rows inside an object."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ipt.data.files.errors import DatasetFileError
from ipt.data.files.json_faults import explained
from ipt.data.json_structure import check_structure
from ipt.data.names import is_short_name, listed

Record = dict[str, Any]
HasBothColumns = Callable[[Sequence[str]], bool]
"""Whether names of columns include those of the input and the output."""

_MAX_ROW_VALUES = 100_000
_MAX_DOCUMENT_VALUES = 500_000
_MAX_DIGITS = 300
_LINE_END = re.compile(r"\r\n|\r|\n")
_LIST_OF_TEXTS = re.compile(r'\s*\[\s*"')
_BLANK = re.compile(r"[ \t\r\n]*")
# Lists of rows that other tools and this API put into an object, and the object that each row may be wrapped in.
_WRAPPERS = (
    "examples",
    "data",
    "rows",
    "records",
    "items",
    "instances",
    "train",
    "training",
    "training_data",
    "train_data",
    "common_examples",
    "rasa_nlu_data",
    "utterances",
    "intents",
    "samples",
    "results",
    "result",
    "documents",
    "dataset",
    "hits",
    "assets",
)
# Lists of objects that are a part of one row.
_PARTS_OF_A_ROW = ("messages", "conversations", "annotations", "completions")
_ROW_WRAPPERS = ("row", "_source", "fields")
"""Objects that hold a row: of the viewer of Hugging Face, of Elasticsearch, and of Airtable."""
_PAIR = ("text", "label")
_EXPECTED = 'expected a JSON object such as {"input": "…", "output": "…"}'


def looks_like_json(text: str) -> bool:
    """Return whether a text starts as a JSON object or array does."""
    return text[:1024].lstrip()[:1] in ("{", "[")


def load_json(text: str) -> Any:
    """Parse one JSON value strictly: no NaN, no infinity, no repeated keys.

    Raises:
        ValueError: the text is not valid JSON, or has too many or too deeply nested values.
    """
    check_structure(text, _MAX_ROW_VALUES)
    return _parse(text, numbers_as_written=False)


def json_records(text: str, has_both: HasBothColumns, notes: list[str]) -> tuple[str, Iterator[tuple[int, Record]]]:
    """Return the name of the JSON format, and each row with the line that it starts on.

    Numbers stay as they are written: they may be labels. Rows that are lists get the names of the first list if it is a
    header; otherwise they must be pairs of a text and a label.

    Args:
        text: the decoded file.
        has_both: whether names of columns include those of the input and the output.
        notes: gets a note of what is left out, while the rows are read.
    """
    number, line = _first_line(text)
    if line is None or not _is_whole(line) or (line.lstrip().startswith("[") and not _is_list_of_texts(line)):
        return "json", _named(_values_of_document(text, has_both, notes), has_both)
    wrapped = _rows_of_only_line(text, line, has_both, notes)
    if wrapped is None:
        return "jsonl", _named(_values_of_lines(text), has_both)
    return "json", _named(((number, row) for row in wrapped), has_both)


def _named(values: Iterator[tuple[int, Any]], has_both: HasBothColumns) -> Iterator[tuple[int, Record]]:
    """Yield the rows as objects; the first list may name the columns of those that follow."""
    names: Sequence[str] | None = None
    for line, value in values:
        if not isinstance(value, list) or _is_spacy_pair(value):
            yield line, _as_record(value, line)
        elif names is None and all(isinstance(name, str) for name in value) and has_both(value):
            names = value
        elif len(value) == len(_PAIR if names is None else names):
            yield line, dict(zip(_PAIR if names is None else names, value, strict=True))
        else:
            raise DatasetFileError(_EXPECTED, line=line)


def _is_list_of_texts(line: str) -> bool:
    """Return whether a line is a list of texts, and so a row itself."""
    if not _LIST_OF_TEXTS.match(line):
        return False
    try:
        check_structure(line, _MAX_ROW_VALUES)
        return len(_parse(line)) == len(_PAIR)
    except ValueError:
        return False


def _is_spacy_pair(value: list[Any]) -> bool:
    return len(value) == len(_PAIR) and isinstance(value[1], dict) and "cats" in value[1]


def _rows_of_only_line(text: str, line: str, has_both: HasBothColumns, notes: list[str]) -> list[Any] | None:
    """Return the rows within the only line of a text, None if it has more lines or holds one row or an error."""
    if text.strip() != line.strip():
        return None
    try:
        check_structure(line, _MAX_DOCUMENT_VALUES)
        return _rows_within(_parse(line), has_both, notes)
    except ValueError:
        return None


def _first_line(text: str) -> tuple[int, str | None]:
    return next(((number, line) for number, line in _lines(text) if line.strip()), (1, None))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start, number = 0, 1
    for end in _LINE_END.finditer(text):
        yield number, text[start : end.start()]
        start, number = end.end(), number + 1
    yield number, text[start:]


def _is_whole(line: str) -> bool:
    """Return whether a line starts with a whole JSON value; what follows it may be an error."""
    try:
        check_structure(line, _MAX_DOCUMENT_VALUES)
        _decoder().raw_decode(line.strip())
    except json.JSONDecodeError as error:
        # The value ends on a later line, or is an error that the line itself shows.
        return error.pos < len(line.strip())
    except ValueError:
        return True
    return True


def _values_of_lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line_as_written in _lines(text):
        line = line_as_written.lstrip("\ufeff")  # of files that were put together
        if not line.strip():
            continue
        try:
            check_structure(line, _MAX_ROW_VALUES)
            value = _parse(line)
        except ValueError as error:
            cause = error.__cause__
            at_end = isinstance(cause, json.JSONDecodeError) and _is_cut(cause, line)
            reason = explained(line, str(error), at_end=at_end)
            message = f"not JSON ({reason}); every line must be one JSON object"
            raise DatasetFileError(message, line=number) from None
        yield number, value


def _values_of_document(text: str, has_both: HasBothColumns, notes: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array, or objects that follow each other, as they are parsed."""
    lines = _LineCounter(text)
    position = _skip_blank(text, 0)
    in_array = text.startswith("[", position)
    try:
        check_structure(text, _MAX_DOCUMENT_VALUES)
    except ValueError as error:
        message = f"not JSON ({error}); a large file must have one JSON object per line"
        raise DatasetFileError(message, line=lines.at(position)) from None
    if in_array:
        position = _skip_blank(text, position + 1)
        if text.startswith("]", position):
            return
    decoder = _decoder()
    count = 0
    while True:
        line = lines.at(position)
        try:
            value, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            reason = explained(text[position : position + 1000], error.msg, at_end=_is_cut(error, text))
            message = f"not JSON ({reason}, at character {error.colno})"
            raise DatasetFileError(message, line=lines.at(error.pos)) from None
        except ValueError as error:
            raise DatasetFileError(f"not JSON ({error})", line=line) from None
        position = _skip_blank(text, end)
        last = position == len(text)
        wrapped = _rows_within(value, has_both, notes) if not in_array and not count and last else None
        for row in [value] if wrapped is None else wrapped:
            yield line, row
        count += 1
        if last and not in_array:
            return
        if in_array:
            following = _after_element(text, position, lines)
            if following is None:
                return
            position = following


def _is_cut(error: json.JSONDecodeError, text: str) -> bool:
    """Return whether a text ends before its JSON value does."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())


def _after_element(text: str, position: int, lines: _LineCounter) -> int | None:
    """Return where the next element of an array starts, None if the array ends."""
    if text.startswith(",", position):
        position = _skip_blank(text, position + 1)
        if text.startswith("]", position):
            raise DatasetFileError("not JSON (a comma before the end of the array)", line=lines.at(position))
        return position
    if not text.startswith("]", position):
        message = "not JSON (expected a comma or the end of the array)"
        if position == len(text):
            message = "not JSON (the array does not end: is the file cut off?)"
        raise DatasetFileError(message, line=lines.at(min(position, len(text) - 1)))
    end = _skip_blank(text, position + 1)
    if end < len(text):
        raise DatasetFileError("not JSON (text after the end of the array)", line=lines.at(end))
    return None


def _as_record(value: object, line: int) -> Record:
    if isinstance(value, list):  # a pair of spaCy's training data
        value = {"text": value[0], **value[1]}
    if not isinstance(value, dict):
        raise DatasetFileError(_EXPECTED, line=line)
    if "responses" in value:  # of Argilla, which has fields too
        return value
    return next((value[name] for name in _ROW_WRAPPERS if isinstance(value.get(name), dict)), value)


def _rows_within(value: object, has_both: HasBothColumns, notes: list[str]) -> list[Any] | None:
    """Return the rows of an object that holds them; None if it is a row itself, or texts by label."""
    if not isinstance(value, dict):
        return None
    if has_both(list(value)) and not any(isinstance(cells, list | dict) for cells in value.values()):
        return None
    for name in _WRAPPERS:
        inner = value.get(name)
        if isinstance(inner, list) and all(isinstance(row, list | dict) for row in inner):
            notes += _other_lists(value, name, has_both)
            return _with_header(value.get("columns"), inner)
        if isinstance(inner, dict) and (rows := _rows_within(inner, has_both, notes)) is not None:
            notes += _other_lists(value, name, has_both)
            return rows
        if isinstance(inner, dict) and all(isinstance(texts, list | dict) for texts in inner.values()):
            return [inner]
    return _rows_of_columns(value, has_both) or _rows_of_only_list(value, has_both)


def _other_lists(value: Record, name: str, has_both: HasBothColumns) -> list[str]:
    """Return a note that names the other lists of rows in an object, such as those of a test split."""
    others = [
        f"{other!r} ({len(rows)} rows)" if isinstance(rows, list) else repr(other)
        for other, rows in value.items()
        if other != name and is_short_name(other) and _are_rows(rows, has_both)
    ]
    return [f"only the rows of {name!r} are read; left out: {listed(others)}"] if others else []


def _are_rows(value: object, has_both: HasBothColumns) -> bool:
    """Return whether a value is a list of rows, or an object that holds rows or columns."""
    if isinstance(value, dict):
        return has_both(list(value)) or any(
            _are_rows(inner, has_both) for inner in value.values() if isinstance(inner, list)
        )
    if not isinstance(value, list) or not value:
        return False
    row = value[0]
    return has_both(list(row)) if isinstance(row, dict) else isinstance(row, list) and len(row) == len(_PAIR)


def _with_header(columns: object, rows: list[Any]) -> list[Any]:
    """Return the rows; with the names of their columns if an object gives them apart, as pandas does."""
    if not isinstance(columns, list) or not columns:
        return rows
    if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        return rows
    return [dict(zip(map(str, columns), row, strict=True)) for row in rows]


def _rows_of_columns(value: Record, has_both: HasBothColumns) -> list[Any] | None:
    """Return the rows of an object with a list per column, or with an object per row."""
    columns = {name: list(cells.values()) if isinstance(cells, dict) else cells for name, cells in value.items()}
    lists = [cells for cells in columns.values() if isinstance(cells, list)]
    if has_both(list(columns)) and len(lists) == len(columns) and len({len(cells) for cells in lists}) == 1:
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*lists, strict=True)] if lists[0][1:] else None
    rows = list(value.values())
    if rows and all(isinstance(row, dict) and has_both(list(row)) for row in rows):
        return rows
    return None


def _rows_of_only_list(value: Record, has_both: HasBothColumns) -> list[Any] | None:
    """Return the only list of objects in an object, if it is no part of a row.

    Raises:
        DatasetFileError: it has several lists of rows, of which no name says which one to tune on.
    """
    lists = [
        (name, inner)
        for name, inner in value.items()
        if isinstance(inner, list) and inner and all(isinstance(row, dict) for row in inner)
    ]
    rows = [repr(name) for name, inner in lists if is_short_name(name) and has_both(list(inner[0]))]
    if len(rows) > 1:
        message = (
            f"the file has several lists of rows, {listed(rows)}: name the list to tune on 'train', or send only it"
        )
        raise DatasetFileError(message, line=1)
    is_part = "text" in value or not lists or lists[0][0] in _PARTS_OF_A_ROW
    return lists[0][1] if len(lists) == 1 and not is_part else None


def _parse(text: str, *, numbers_as_written: bool = True) -> Any:
    decoder = _decoder(numbers_as_written=numbers_as_written)
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from error


def _decoder(*, numbers_as_written: bool = True) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique_keys,
        parse_constant=_reject_constant,
        parse_int=str if numbers_as_written else _parse_int,
        parse_float=str if numbers_as_written else None,
    )


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


def _skip_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    assert match is not None
    return match.end()


class _LineCounter:
    """The number of the line at a position; positions must not decrease, so that all calls together are linear."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1

    def at(self, position: int) -> int:
        text, start = self._text, self._position
        ends = text.count("\n", start, position) + text.count("\r", start, position)
        crlf = text.count("\r\n", start, position + 1)
        self._line += ends - crlf
        self._position = position
        return self._line
