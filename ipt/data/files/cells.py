"""Read labels from the cells of a table, or from the values of JSON objects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_MAX_CHARS = 10_000
_FASTTEXT = "__label__"
_PRINTED_TEXT = re.compile(r"""\"((?:[^"\\]|\\["\\/])+)\"|'([^'\\]+)'""")
_PRINTED_LIST = re.compile(rf"\[\s*(?:(?:{_PRINTED_TEXT.pattern})(?:\s*,\s*(?:{_PRINTED_TEXT.pattern}))*)?\s*\]")
# An element of a list of labels as JSON, Python or NumPy prints it, such as ["refund"], ['a', 'b'], ['a' 'b'] or [27].
_ELEMENT = re.compile(r"""\s*(?:"([^"\\]*)"|'([^'\\]*)'|(-?\d+))\s*,?""")
_NAMES = ("name", "label", "value")
_SPREADSHEET_ERRORS = re.compile(
    r"#(?:N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!|ERROR!|SPILL!|CALC!|FIELD!|GETTING_DATA|NV|BEZUG!|WERT!)|Err:5\d\d"
)
_PROPERTIES = frozenset([*_NAMES, "id", "node_id", "url", "color", "description", "default", "score", "confidence"])


def are_printed_lists(values: Sequence[object]) -> bool:
    """Return whether each label is the text of a list, with one element or with elements that repeat.

    Other lists may be texts to write.
    """
    lists = [_elements_of(value) for value in values if isinstance(value, str) and value.strip()]
    if not lists or None in lists:
        return False
    elements = [element for values in lists for element in values or ()]
    return all(len(values or ()) < 2 for values in lists) or len(set(elements)) * 2 <= len(elements)


def _elements_of(text: str) -> list[str] | None:
    """Return the elements of a list that is printed as text, None for any other text."""
    text = text.strip()
    if len(text) > _MAX_CHARS or not (text.startswith("[") and text.endswith("]")):
        return None
    inner, position = text[1:-1].strip(), 0
    elements = []
    while position < len(inner):
        match = _ELEMENT.match(inner, position)
        if match is None:
            return None
        elements.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    return elements


def label_of(value: object, *, printed_lists: bool = False) -> object:
    """Return the label of a value: without the wrapping of a tool, or as it is."""
    if isinstance(value, list):
        return [_name_of(entry) for entry in value]
    if isinstance(value, dict):
        choices = value.get("choices")
        return choices if isinstance(choices, list | str) else value
    if not isinstance(value, str) or len(value) > _MAX_CHARS:
        return value
    if value.startswith(_FASTTEXT):
        return value.removeprefix(_FASTTEXT)
    if value.startswith('{"choices"'):
        return _choices(value)
    elements = _elements_of(value) if printed_lists else None
    return value if elements is None else elements


def no_label(label: object, column: str) -> str | None:
    """Return why a row has no label although its cell is not empty, None if it has one."""
    if not isinstance(label, str):
        return None
    if len(label) < _MAX_CHARS and _SPREADSHEET_ERRORS.fullmatch(label.strip()):
        return f"the label is the spreadsheet error {label.strip()}"
    if label == "-" and column.casefold() in ("gold_label", "label_gold"):
        return "without a gold label"  # of the Stanford corpus of natural language inference
    return None


def labels_in(value: object, separator: str | None) -> list[object] | None:
    """Return the labels of a multi-label row: an empty list says that it has none; None that they are missing.

    A text is a list as JSON or Python prints it, labels with a separator between them, or one label.
    """
    if value is None or isinstance(value, list):
        return value
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if text.startswith("[") and text.endswith("]") and (printed := _printed_list(text)) is not None:
        return printed
    parts = text.split(separator) if separator else [text]
    return [part.strip() for part in parts if part.strip()] or None


def _printed_list(text: str) -> list[object] | None:
    """Return the texts of a list that JSON or Python printed, None if it is no such list."""
    if len(text) > _MAX_CHARS or not _PRINTED_LIST.fullmatch(text):
        return None
    return [json.loads(f'"{double}"') if double else single for double, single in _PRINTED_TEXT.findall(text)]


def _name_of(entry: object) -> object:
    """Return the name of a label with properties, such as an id and a color; any other value as it is."""
    if not isinstance(entry, dict) or not _PROPERTIES.issuperset(entry):
        return entry
    return next((entry[name] for name in _NAMES if isinstance(entry.get(name), str)), entry)


def _choices(cell: str) -> object:
    """Return the choices in a cell of Label Studio's CSV export, or else the cell."""
    try:
        return json.loads(cell)["choices"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return cell
