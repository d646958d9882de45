"""What reading a dataset file found: its examples, their lines, and how the file was read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ipt.data.examples import Example


@dataclass(frozen=True, slots=True)
class SkippedRow:
    line: int
    reason: str


@dataclass(frozen=True)
class Source:
    """How a dataset file was read, so that nothing is guessed in silence."""

    format: str
    """Such as csv, jsonl, xlsx or "json (Label Studio)"."""
    encoding: str | None
    """None for binary formats."""
    delimiter: str | None
    """The name of the delimiter, None for other formats."""
    compression: str | None
    """gzip, or None."""
    columns: dict[str, str] | None
    """The columns of `input` and `output`, None if the format fixes where texts and labels are."""
    rows: int
    """Rows that became examples."""
    skipped: int
    """Rows that the format itself marks as no examples."""
    skipped_rows: tuple[SkippedRow, ...]
    """The first of the skipped rows, with the reason."""
    notes: tuple[str, ...]
    """Decisions that may be wrong, for the caller to check."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class DatasetFile:
    """The content of a dataset file."""

    examples: list[Example]
    lines: list[int]
    """The line on which each example starts."""
    source: Source
