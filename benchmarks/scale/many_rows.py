"""Copy one row millions of times with some columns changed, through PostgreSQL's binary COPY."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

Bytes = NDArray[np.uint8]
"""[N, length]: the values of a column in the binary COPY format."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_END = struct.pack("!h", -1)
_ROWS_AT_ONCE = 1000
_LETTERS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", dtype=np.uint8)


def copy_row(
    connection: psycopg.Connection[Any],
    table: str,
    row_id: tuple[str, str],
    changes: Mapping[str, Bytes],
) -> None:
    """Copy the row whose column `row_id[0]` equals `row_id[1]`, once for each value in `changes`.

    A changed column must have the same length in all copies as in the row. Foreign keys are not checked.
    """
    column, value = row_id
    name = sql.Identifier(table)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(name))
        columns = [described.name for described in cursor.description or ()]
        row = sql.SQL("SELECT * FROM {} WHERE {} = {}").format(name, sql.Identifier(column), value)
        with cursor.copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(row)) as out:
            template = b"".join(bytes(part) for part in out)[len(_HEADER) : -len(_END)]
        places = dict(zip(columns, _places(template), strict=True))
        count = len(next(iter(changes.values())))
        with cursor.copy(sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(name)) as copy:
            copy.write(_HEADER)
            for first in range(0, count, _ROWS_AT_ONCE):
                part = slice(first, min(first + _ROWS_AT_ONCE, count))
                rows = np.tile(np.frombuffer(template, dtype=np.uint8), (part.stop - part.start, 1))
                for changed, values in changes.items():
                    rows[:, places[changed]] = values[part]
                copy.write(rows.tobytes())
            copy.write(_END)


def _places(row: bytes) -> list[slice]:
    """Return the position of each column's value in a row of binary COPY."""
    (count,) = struct.unpack_from("!h", row)
    places, at = [], 2
    for _ in range(count):
        (length,) = struct.unpack_from("!i", row, at)
        at += 4
        places.append(slice(at, at + max(length, 0)))
        at += max(length, 0)
    return places


def ids(prefix: str, count: int, rng: np.random.Generator) -> Bytes:
    """Return new ids in the format of `app.db.ids`."""
    start = np.frombuffer(f"{prefix}_".encode(), dtype=np.uint8)
    return np.hstack([np.tile(start, (count, 1)), _LETTERS[rng.integers(0, len(_LETTERS), (count, 24))]])


def names(values: Bytes) -> list[str]:
    """Decode a column of text."""
    return [bytes(value).decode() for value in values]


def texts(values: list[str]) -> Bytes:
    """Encode a column of texts of the same length."""
    return np.frombuffer("".join(values).encode(), dtype=np.uint8).reshape(len(values), -1)


def numbers(values: NDArray[np.int64], width: int) -> Bytes:
    """Encode a column of integers of `width` bytes; a timestamp is eight bytes, microseconds since 2000."""
    return np.ascontiguousarray(values.astype(f">i{width}")).view(np.uint8).reshape(len(values), width)


def vectors(values: NDArray[np.float32]) -> Bytes:
    """Encode a column of vectors [N, D]."""
    head = np.frombuffer(struct.pack("!HH", values.shape[1], 0), dtype=np.uint8)
    floats = np.ascontiguousarray(values.astype(">f4")).view(np.uint8).reshape(len(values), -1)
    return np.hstack([np.tile(head, (len(values), 1)), floats])
