"""Recognize what a file is by its first bytes, and decompress gzip within limits."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import Literal

from ipt.data.files.errors import DatasetFileError

_GZIP = b"\x1f\x8b"
_AS_GZIP = 16 + zlib.MAX_WBITS
_ZIP = b"PK\x03\x04"
_PARQUET = b"PAR1"
_AS_TABLE = "save its table as Parquet, JSON lines or CSV"
_UNREADABLE = (
    (b"%PDF", "a PDF document: copy its table to a spreadsheet and save that as CSV"),
    (
        b"\xd0\xcf\x11\xe0",
        "an Office file of the format before 2007, or one with a password: save it as XLSX or CSV, without a password",
    ),
    (b"PK\x05\x06", "an empty ZIP archive: send the file itself"),
    (b"PK\x07\x08", "a part of a ZIP archive: send the file itself"),
    (b"BZh", "compressed with bzip2: unpack it, or compress it with gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz: unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard: unpack it, or compress it with gzip"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4: unpack it, or compress it with gzip"),
    (b"\x1f\x9d", "compressed with compress: unpack it, or compress it with gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it and send the file itself"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it and send the file itself"),
    (b"SQLite format 3\x00", "a SQLite database: export the table as CSV"),
    (b"\x00\x01\x00\x00Standard", "an Access database: export the table as CSV"),
    (b"ARROW1", f"an Arrow file: {_AS_TABLE}"),
    (b"FEA1", f"a Feather file: {_AS_TABLE}"),
    (b"ORC", f"an ORC file: {_AS_TABLE}"),
    (b"Obj\x01", f"an Avro file: {_AS_TABLE}"),
    (b"PARE", "a Parquet file that is encrypted: save it without encryption"),
    (b"\x89HDF", f"an HDF5 file: {_AS_TABLE}"),
    (b"\x93NUMPY", f"a NumPy array: {_AS_TABLE}"),
    (b"$FL2", "an SPSS file: export the table as CSV"),
    (b"\x89PNG", "an image: send the examples as text"),
    (b"\xff\xd8\xff", "an image: send the examples as text"),
    (b"GIF8", "an image: send the examples as text"),
    (b"{\\rtf", "an RTF document: save the table as CSV"),
    *((bytes([0x80, protocol]), "a Python pickle: save it as JSON lines or CSV") for protocol in range(2, 6)),
    (b"\x78\x9c", "compressed with zlib, as spaCy's files are: save the examples as JSON lines"),
    (b"\x78\xda", "compressed with zlib, as spaCy's files are: save the examples as JSON lines"),
)
# A first line from one tag to another; a header with markup is not known.
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:[!?]|[A-Za-z][^\r\n]*>\s*(?:[\r\n]|\Z)|html|body|table)", re.IGNORECASE)
_MARKUP_BYTES = 4096
_START_BYTES = 256
_TAR_MARK = slice(257, 262)
_IN_ARCHIVE = (
    ("xl/workbook.bin", "a binary Excel workbook: save it as XLSX or CSV"),
    ("word/", "a Word document: copy its table to a spreadsheet and save that as XLSX or CSV"),
    ("ppt/", "a PowerPoint presentation: copy its table to a spreadsheet and save that as XLSX or CSV"),
    ("Index/", "a file of Numbers or Pages: export the table as XLSX or CSV"),
)

Container = Literal["text", "xlsx", "parquet"]


def decompress(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Return the content of a gzip file, and True; or other data as they are, and False.

    Raises:
        DatasetFileError: the file is damaged, or has more than `max_bytes` decompressed.
    """
    if not data.startswith(_GZIP):
        return data, False
    parts = []
    room = max_bytes
    while data:
        member = zlib.decompressobj(_AS_GZIP)
        try:
            parts.append(member.decompress(data, room + 1))
        except zlib.error:
            raise DatasetFileError("the gzip file is damaged: compress it again") from None
        room -= len(parts[-1])
        if room < 0:
            raise DatasetFileError(f"decompressed, the file has more than {max_bytes:,} bytes: send a smaller file")
        if not member.eof:
            raise DatasetFileError("the gzip file is cut off: compress it again")
        data = member.unused_data.lstrip(b"\x00")
    return b"".join(parts), True


def container_of(data: bytes) -> Container:
    """Return what kind of file the first bytes say it is.

    Raises:
        DatasetFileError: the file is of a kind that is not supported; the message says what to do.
    """
    if data.startswith(_GZIP):
        raise DatasetFileError("the file is compressed twice: compress it once")
    if data.startswith(_PARQUET):
        return "parquet"
    if data.startswith(_ZIP):
        names = _names_in_archive(data)
        for part, kind in _IN_ARCHIVE:
            if any(name.startswith(part) for name in names):
                raise DatasetFileError(f"the file is {kind}")
        if any(name.startswith("xl/") for name in names):
            return "xlsx"
        if "content.xml" in names and "mimetype" in names:
            raise DatasetFileError("the file is an OpenDocument file: save the table as XLSX or CSV")
        texts = [name for name in names if name.lower().endswith(".txt")]
        if len(texts) > 1:
            raise DatasetFileError(
                f"the file is a ZIP archive of {len(texts):,} texts: save them as one CSV or JSON lines file with the "
                "columns text and label"
            )
        raise DatasetFileError(
            "the file is a ZIP archive: unpack it and send the file itself, or compress it with gzip"
        )
    for start, kind in _UNREADABLE:
        # The name of a column may start with such letters.
        if data.startswith(start) and not (start.isalnum() and _is_printable(data[:_START_BYTES])):
            raise DatasetFileError(f"the file is {kind}")
    if data[_TAR_MARK] == b"ustar":
        raise DatasetFileError("the file is a tar archive: unpack it and send the file itself")
    if _MARKUP.match(data[:_MARKUP_BYTES]):
        raise DatasetFileError("the file is a web page or XML: save the table as CSV or JSON lines")
    return "text"


def _is_printable(data: bytes) -> bool:
    return all(byte >= 0x20 or byte in b"\t\r\n" for byte in data)


def _names_in_archive(data: bytes) -> list[str]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        raise DatasetFileError("the file is a damaged ZIP archive or Excel workbook: save it as CSV") from None
