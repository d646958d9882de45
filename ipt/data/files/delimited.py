"""Read delimited text: find the delimiter and the way of quoting, and yield the cells of each row."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ipt.data.files.errors import DatasetFileError

Cells = tuple[int, list[str]]
"""The cells of a row, after the line that the row starts on."""

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_SAMPLE_CHARS = 32_768
_SAMPLE_ROWS = 50
_SEP_LINE = re.compile(r'[ \r\n]{0,9}"?sep[ ]{0,9}=[ ]{0,9}([^\r\n])"?[ \t,;|]{0,99}(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
# Delimiters that are tried only where they make a header with known names.
_RARE_DELIMITERS = "^~:\x01\x1f¦§"
_HEADER_LINES = 10
_MAX_HEADER_CHARS = 4000
_LINE_END = re.compile(r"\r\n|\r|\n")
# The line between the header and the rows of a Markdown table, such as | --- | :-: |.
_MARKDOWN_RULE = re.compile(r"\|?[\s|]*:?-[-:|\s]*")
# The largest C long on every platform: the length of texts is limited for every format alike.
_MAX_FIELD_SIZE = 2**31 - 1

_QUOTINGS: dict[str, dict[str, Any]] = {
    "doubled quotes": {},
    "backslashes": {"doublequote": False, "escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
    "single quotes": {"quotechar": "'"},
}
HasBothColumns = Callable[[Sequence[str]], bool]
"""Whether a header has the names of both columns."""


@dataclass(frozen=True)
class Dialect:
    """How delimited text is written."""

    delimiter: str
    quoting: str = "doubled quotes"
    start: int = 0
    """Where the header may start: after a line such as `sep=;`, or a title."""
    blanks: bool = False
    """Whether a blank follows each delimiter."""
    notes: tuple[str, ...] = field(default=())


def find_dialect(text: str, preferred: str, is_known_header: HasBothColumns, max_rows: int) -> Dialect:
    """Return how the text is written.

    Args:
        text: the decoded file.
        preferred: the delimiter that wins a tie.
        is_known_header: decides at once between delimiters, and finds a header below other lines.
        max_rows: rows that are read at most; further rows need not be valid.
    """
    sep_line = _SEP_LINE.match(text)
    if sep_line:
        dialect = Dialect(sep_line[1], start=sep_line.end())
    else:
        dialect = Dialect(_find_delimiter(text, preferred, is_known_header))
        if not is_known_header(_header(text, dialect)):
            dialect = _with_known_header(text, is_known_header) or dialect
    header = _header(text, dialect)
    if len(header) > 1 and all(cell.startswith(" ") for cell in header[1:]):
        dialect = replace(dialect, blanks=True)
    if _is_in_single_quotes(header) or _rows_are_in_single_quotes(text, dialect):
        dialect = replace(dialect, quoting="single quotes")
    return _find_quoting(text, dialect, max_rows)


def unwrapped_rows(text: str, is_known_header: HasBothColumns) -> str | None:
    """Return the table within a table whose rows are each one quoted cell, None for any other text."""
    if not text.lstrip().startswith('"'):
        return None
    (header,) = _cells(text[:_MAX_HEADER_CHARS].lstrip(), ",")[:1] or [""]
    if not any(is_known_header(_cells(header, delimiter)) for delimiter in DELIMITERS):
        return None
    csv.field_size_limit(_MAX_FIELD_SIZE)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    return "\n".join("".join(row) for row in rows) if all(len(row) <= 1 for row in rows) else None


def rows_of(text: str, dialect: Dialect) -> Iterator[Cells]:
    """Yield the cells of each row that is not blank; empty cells at the end of a row are dropped beyond the header's.

    Raises:
        DatasetFileError: a row is not valid, or does not fit the header.
    """
    try:
        header: list[str] | None = None
        for line, cells in _parsed(text, dialect):
            if dialect.delimiter == "|":
                cells[:] = [cell.strip() for cell in cells]
                if _MARKDOWN_RULE.fullmatch("|".join(cells)):
                    continue
            if header is None:
                header = cells
            elif len(cells) > len(header):
                if any(cell.strip() for cell in cells[len(header) :]):
                    message = (
                        f"more cells than the header's {len(header)}: put texts that contain a "
                        f"{_name(dialect.delimiter)} or a line break in quotes"
                    )
                    raise DatasetFileError(message, line=line)
                del cells[len(header) :]
            yield line, cells
    except _QuotingError as error:
        message = (
            f"not {'TSV' if dialect.delimiter == chr(9) else 'CSV'} ({error.reason}); enclose a text with quotes in "
            "quotes and double the inner ones"
        )
        raise DatasetFileError(message, line=error.line) from None


class _QuotingError(Exception):
    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


def _name(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, repr(delimiter))


def _parsed(text: str, dialect: Dialect) -> Iterator[Cells]:
    """Yield the cells of each row that is not blank."""
    csv.field_size_limit(_MAX_FIELD_SIZE)
    # Keep line ends as they are: inside quotes they are part of the text.
    lines = io.StringIO(text[dialect.start :], newline="")
    reader = csv.reader(
        lines,
        delimiter=dialect.delimiter,
        strict=True,
        skipinitialspace=dialect.blanks,
        **_QUOTINGS[dialect.quoting],
    )
    first = sum(1 for _ in _LINE_END.finditer(text, 0, dialect.start)) + 1
    start = first
    try:
        for cells in reader:
            line, start = start, reader.line_num + first
            if any(cell.strip() for cell in cells):
                yield line, cells
    except csv.Error as error:
        raise _QuotingError(str(error), start) from None


def _header(text: str, dialect: Dialect) -> list[str]:
    """Return the cells of the first row that is not blank."""
    return _cells(text[dialect.start : dialect.start + _SAMPLE_CHARS].lstrip("\r\n"), dialect.delimiter)


def _cells(text: str, delimiter: str) -> list[str]:
    """Return the cells of the first row of a text, an empty list if it is not valid."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []


def _is_in_single_quotes(cells: Sequence[str]) -> bool:
    return bool(cells) and all(len(cell) > 2 and cell[0] == cell[-1] == "'" for cell in map(str.strip, cells))


def _rows_are_in_single_quotes(text: str, dialect: Dialect) -> bool:
    """Return whether each of the first lines below the header is cells in single quotes."""
    sample = text[dialect.start : dialect.start + _SAMPLE_CHARS]
    lines = [line.strip() for line in sample.splitlines()[: _SAMPLE_ROWS + 1] if line.strip()][1:]
    if len(sample) == _SAMPLE_CHARS:  # the last line may be cut
        del lines[_SAMPLE_ROWS - 1 :]
    between = f"'{dialect.delimiter}'"
    return bool(lines) and all(line[0] == line[-1] == "'" and between in line for line in lines)


def _with_known_header(text: str, is_known_header: HasBothColumns) -> Dialect | None:
    """Return a dialect under which one of the first lines is a known header, None if there is none."""
    start = 0
    for number in range(_HEADER_LINES):
        match = _LINE_END.search(text, start)
        end = len(text) if match is None else match.start()
        line = text[start : min(end, start + _MAX_HEADER_CHARS)]
        for delimiter in (*DELIMITERS, *_RARE_DELIMITERS):
            if delimiter in line and is_known_header(_cells(line, delimiter)):
                blank = not text[:start].strip()
                note = f"lines above the header are left out: {number}"
                return Dialect(delimiter, start=start, notes=() if blank else (note,))
        if match is None:
            return None
        start = match.end()
    return None


def _find_delimiter(text: str, preferred: str, is_known_header: HasBothColumns) -> str:
    sample = text[:_SAMPLE_CHARS]
    if len(text) > _SAMPLE_CHARS:  # its last line may be cut
        sample = sample[: max(sample.rfind("\n"), sample.rfind("\r"), 1)]
    best, best_rank = preferred, (False, 0.0, 0.0, False)
    for delimiter in DELIMITERS:
        if delimiter not in sample:
            continue
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        try:
            rows = list(islice((cells for cells in reader if any(cell.strip() for cell in cells)), _SAMPLE_ROWS))
        except csv.Error:
            continue
        widths = Counter(map(_width, rows))
        width, count = max(widths.items(), key=lambda entry: (entry[1], entry[0]), default=(0, 0))
        if width < 2 and len(rows[0] if rows else ()) < 2:
            continue
        # The share of rows of the usual width, and whether the header has it too.
        rank = (is_known_header(rows[0]), count / len(rows) if width >= 2 else 0.0, 0.0, delimiter == preferred)
        rank = (*rank[:2], float(len(rows[0]) >= width), rank[3])
        if rank > best_rank:
            best, best_rank = delimiter, rank
    return best


def _width(cells: Sequence[str]) -> int:
    """Return the number of cells without the empty ones at the end."""
    return next((number for number in range(len(cells), 0, -1) if cells[number - 1].strip()), 0)


def _find_quoting(text: str, dialect: Dialect, max_rows: int) -> Dialect:
    """Return the dialect with the first way of quoting in which the whole text is valid; doubled quotes if none is."""
    if '"' not in text:
        return dialect
    if dialect.quoting == "single quotes":
        return dialect
    standard = _Check.of(text, dialect, max_rows)
    raw = replace(dialect, quoting="none")
    # Quotes in TSV are often raw: most programs that write tabs never quote.
    tabs = dialect.delimiter == "\t"
    if standard.valid:
        if tabs and standard.swallowed is not None and _Check.of(text, raw, max_rows).valid:
            note = f"line {standard.swallowed}: quotes are read as part of the texts, or they would join several lines"
            return replace(raw, notes=(*raw.notes, note))
        return dialect
    if '\\"' in text:
        notes = (*dialect.notes, '\\" is read as a quote inside a text')
        escaped = replace(dialect, quoting="backslashes", notes=notes)
        if _Check.of(text, escaped, max_rows).valid:
            return escaped
    if tabs and _Check.of(text, raw, max_rows).valid:
        return replace(raw, notes=(*raw.notes, "quotes are read as part of the texts"))
    return dialect


@dataclass(frozen=True)
class _Check:
    """Whether every row of a text is valid and has the width of the header, in one dialect."""

    valid: bool
    swallowed: int | None = None
    """The line of the first row with a text that contains both a tab and a line break."""

    @classmethod
    def of(cls, text: str, dialect: Dialect, max_rows: int) -> _Check:
        header_width: int | None = None
        swallowed: int | None = None
        try:
            for line, cells in islice(_parsed(text, dialect), max_rows + 2):
                if header_width is None:
                    header_width = len(cells)
                elif _width(cells) > header_width:
                    return cls(False)
                if swallowed is None and any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in cells):
                    swallowed = line
        except _QuotingError:
            return cls(False)
        return cls(True, swallowed)
