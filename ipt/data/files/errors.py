"""The error of dataset files."""

from __future__ import annotations

from ipt.errors import DatasetError


class DatasetFileError(DatasetError):
    """An invalid dataset file. `line` is where the row starts, from 1; `field` is `input` or `output`.

    The message quotes no text of the file, only names that are as short as names of columns are.
    """

    def __init__(self, message: str, *, line: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.field = field
