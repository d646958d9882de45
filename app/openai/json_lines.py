"""Read the JSON objects of an uploaded file, one on each line."""

from collections.abc import Iterator
from typing import Any

from ipt.data.files.encodings import decode
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.json_records import load_json


class LineError(Exception):
    """A file cannot be used; the message names the line and the field."""

    def __init__(self, message: str, *, line: int | None = None, field: str | None = None) -> None:
        place = "" if line is None else f"line {line}, {field}: " if field else f"line {line}: "
        super().__init__(place + message)


def json_lines(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON object on each line with the line's number; blank lines are skipped.

    Raises:
        LineError: the content is no text, or a line is no JSON object.
    """
    try:
        text, _ = decode(content)
    except DatasetFileError as error:
        # Not its message, which advises to name the charset: OpenAI's API has no field for it.
        message = "not UTF-8 text, or it contains a NUL character: save the file as UTF-8"
        raise LineError(message, line=error.line) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = load_json(line)
        except ValueError as error:
            raise LineError(f"not JSON ({error}); every line must be one JSON object", line=number) from None
        if not isinstance(record, dict):
            raise LineError("expected a JSON object, not a list or a value: write one object on each line", line=number)
        yield number, record
