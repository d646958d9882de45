"""How errors and warnings name columns, labels and lines."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 20
"""Most names or lines that one message lists."""
_MOST_CHARS = 40
_MOST_WORDS = 4


def is_short_name(name: str) -> bool:
    """Return whether a column or label may be quoted: it is short, so it is no text that only its owner may see."""
    return 0 < len(name) <= _MOST_CHARS and len(name.split()) <= _MOST_WORDS


def listed(names: Sequence[str]) -> str:
    """Return the first names, separated by commas, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def listed_lines(lines: Sequence[int]) -> str:
    """Return "line 3" or "lines 3, 5 and 7 more"."""
    return f"line{'s' if len(lines) > 1 else ''} {listed([str(line) for line in lines])}"


def listed_rows(numbers: Sequence[int]) -> str:
    """Return "row 3" or "rows 3, 5 and 7 more"."""
    return f"row{'s' if len(numbers) > 1 else ''} {listed([str(number) for number in numbers])}"
