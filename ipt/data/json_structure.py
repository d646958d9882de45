"""Limits on the structure of a JSON text, checked in linear time before a parser makes an object of every value."""

import re
from itertools import accumulate, islice

MAX_DEPTH = 32
_BRACKET = re.compile(r"[\[\]{}]")


class StructureError(ValueError):
    """A JSON text has too many values."""


class DepthError(ValueError):
    """A JSON text is nested too deeply."""


def check_structure(text: str, max_values: int) -> None:
    """Check that a JSON text is within the limits; in a malformed text, only the values before its first error count.

    Raises:
        StructureError: it has more than `max_values` list elements and object fields.
        DepthError: it is nested more than `MAX_DEPTH` deep.
    """
    if _values(text) <= max_values and _openings(text) <= MAX_DEPTH:  # upper bounds: they count strings too
        return
    if "\\" in text:
        # Pairs of backslashes first: the second one of a pair escapes no quote.
        text = text.replace("\\\\", "").replace('\\"', "")
    most_strings = 2 * max_values + 1  # the name and the value of each field
    if text.count('"') > 2 * most_strings:
        raise StructureError(f"more than {max_values:,} values")
    structure = "".join(text.split('"')[::2])
    if _values(structure) > max_values:
        raise StructureError(f"more than {max_values:,} values")
    # Valid text has two brackets for each opening one; further brackets only close, or come after an error.
    brackets = islice(_BRACKET.finditer(structure), 2 * _openings(structure))
    if max(accumulate(1 if bracket[0] in "[{" else -1 for bracket in brackets), default=0) > MAX_DEPTH:
        raise DepthError(f"nested too deeply: more than {MAX_DEPTH} levels")


def _openings(text: str) -> int:
    return text.count("[") + text.count("{")


def _values(text: str) -> int:
    """Return a number that is at least the number of list elements and object fields."""
    return text.count(",") + _openings(text)
