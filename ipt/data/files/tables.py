"""Read the tables of Excel workbooks and Parquet files, with the packages of the extra `tables`."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from ipt.data.files.columns import MAX_COLUMNS
from ipt.data.files.errors import DatasetFileError

_MAX_CELLS = 2_000_000
# A cell reference such as r="B12", or the number of a row.
_REFERENCE = re.compile(rb"""\br\s*=\s*["']\s*([A-Za-z]{0,8})(\d{1,20})""")
_SHARED_INDEX = re.compile(rb">\s*\+?(\d{1,20})\s*<")
_SHARED_END = re.compile(rb"</(?:[\w.-]{1,100}:)?si\s*>")
# References and indices that are written with entities are not read here, and no program writes them.
_HIDDEN = re.compile(
    rb"""\br\s*=\s*["'][^"'<]{0,100}&|<(?:[\w.-]{1,100}:)?v[^<>]{0,100}>[^<]{0,100}&|v[^<>]{0,100}><!\[CDATA"""
)
_DAMAGED = "the {} is damaged: save the table as CSV"


def workbook_sheets(data: bytes, max_bytes: int) -> list[tuple[str, list[tuple[int, list[str]]]]]:
    """Return the name of each sheet of a workbook that has rows, with the line and the cells of each of them.

    Raises:
        DatasetFileError: the workbook cannot be read or is too large.
    """
    _check_installed("python_calamine", "an Excel workbook")
    from python_calamine import CalamineWorkbook

    content = _rewritten(data, max_bytes)
    try:
        with CalamineWorkbook.from_filelike(io.BytesIO(content)) as workbook:
            sheets = [(name, _rows_of(workbook.get_sheet_by_name(name))) for name in workbook.sheet_names]
    except Exception as error:  # noqa: BLE001 - calamine raises an error type of its own for each part
        raise DatasetFileError(f"{_DAMAGED.format('Excel workbook')} ({type(error).__name__})") from None
    return [(name, rows) for name, rows in sheets if rows]


def _rows_of(sheet: Any) -> list[tuple[int, list[str]]]:
    """Return the line and the cells of each row of calamine's sheet that is not blank."""
    first = 1 if sheet.start is None else sheet.start[0] + 1
    rows = [[_cell_text(value) for value in row] for row in sheet.to_python(skip_empty_area=True)]
    return [(line, cells) for line, cells in enumerate(rows, start=first) if any(cell.strip() for cell in cells)]


def parquet_rows(data: bytes, max_bytes: int, max_rows: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the columns of each row of a Parquet file.

    Raises:
        DatasetFileError: the file cannot be read or is too large.
    """
    _check_installed("pyarrow", "a Parquet file")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        metadata = file.metadata
        if metadata.num_columns > MAX_COLUMNS:
            raise DatasetFileError(f"the file has {metadata.num_columns} columns, at most {MAX_COLUMNS} are supported")
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > max_bytes:
            raise DatasetFileError(f"decompressed, the file has more than {max_bytes:,} bytes: send a smaller file")
        number = 0
        room = max_bytes
        names_of = _label_names(file.schema_arrow.metadata)
        for batch in file.iter_batches(batch_size=512):
            room -= batch.nbytes
            if room < 0:
                raise DatasetFileError(f"decompressed, the file has more than {max_bytes:,} bytes: send a smaller file")
            for record in batch.to_pylist():
                number += 1
                yield number, {name: _value(value, names_of.get(name)) for name, value in record.items()}
            if number > max_rows:
                return
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetFileError(f"{_DAMAGED.format('Parquet file')} ({type(error).__name__})") from None


def _check_installed(module: str, kind: str) -> None:
    if importlib.util.find_spec(module) is None:
        advice = "save it as CSV, or install the service with the extra `tables`"
        raise DatasetFileError(f"the file is {kind}, which this installation does not read: {advice}")


def _cell_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():  # Excel stores every number as a float
        return str(int(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _label_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of the labels that stand as numbers in a column, as datasets of Hugging Face have them."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature["names"] for name, feature in features.items() if isinstance(feature.get("names"), list)}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}


def _value(value: object, names: list[str] | None = None) -> object:
    """Return the name of a label, or a number as text: it may be a label."""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _rewritten(data: bytes, max_bytes: int) -> bytes:
    """Return the workbook without compression, after checking how much memory its cells need.

    calamine allocates every cell between the first and the last one, and copies a shared text into each cell that
    refers to it: a few hundred bytes could fill the memory.
    """
    too_large = DatasetFileError(f"decompressed, the workbook needs more than {max_bytes:,} bytes: save it as CSV")
    parts: dict[str, bytes] = {}
    room = max_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith((".xml", ".rels")):
                    continue
                with archive.open(entry) as part:
                    content = part.read(room + 1)
                room -= len(content)
                if room < 0:
                    raise too_large
                parts[entry.filename] = content
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, RuntimeError, EOFError):
        raise DatasetFileError(_DAMAGED.format("Excel workbook")) from None
    shared = max(
        ([len(text) for text in _SHARED_END.split(content)] for content in parts.values()), key=len, default=[]
    )
    # Any part may be a sheet: the names of parts are up to the program that wrote the workbook.
    cells = copied = 0
    for content in parts.values():
        cells += _cells_of(content)
        copied += _copied_bytes(content, shared)
        if cells > _MAX_CELLS or copied > max_bytes:
            raise too_large
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return rewritten.getvalue()


def _cells_of(content: bytes) -> int:
    """Return how many cells calamine allocates for a sheet."""
    if _HIDDEN.search(content):
        raise DatasetFileError(_DAMAGED.format("Excel workbook"))
    columns = rows = 1
    for match in _REFERENCE.finditer(content):
        columns = max(columns, _column_number(match[1]))
        rows = max(rows, int(match[2]))
    if columns > MAX_COLUMNS:
        raise DatasetFileError(f"the sheet has {columns} columns, at most {MAX_COLUMNS} are supported")
    return columns * rows


def _copied_bytes(content: bytes, shared: list[int]) -> int:
    """Return how many bytes of shared texts calamine copies into the cells of a sheet."""
    indices = (int(match[1]) for match in _SHARED_INDEX.finditer(content))
    return sum(shared[index] for index in indices if index < len(shared))


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number
