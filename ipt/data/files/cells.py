"""Read labels from the cells of a table, or from the values of JSON objects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_MAX_CHARS = 10_000
_FASTTEXT = "__label__"
# A list of one text as JSON or Python prints it: ["refund"] or ['refund'].
_LIST_OF_ONE = re.compile(r"""\[\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\]""")
_PRINTED_TEXT = re.compile(r"""\"((?:[^"\\]|\\["\\/])+)\"|'([^'\\]+)'""")
_PRINTED_LIST = re.compile(rf"\[\s*(?:(?:{_PRINTED_TEXT.pattern})(?:\s*,\s*(?:{_PRINTED_TEXT.pattern}))*)?\s*\]")
_NAMES = ("name", "label", "value")
_PROPERTIES = frozenset([*_NAMES, "id", "node_id", "url", "color", "description", "default", "score", "confidence"])


def are_printed_lists(values: Sequence[object]) -> bool:
    """Return whether each label is the text of a list with one element; longer lists may be texts to write."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return bool(texts) and all(_LIST_OF_ONE.fullmatch(text.strip()[:_MAX_CHARS]) for text in texts)


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
    if printed_lists and (match := _LIST_OF_ONE.fullmatch(value.strip())):
        return match[1] or match[2]
    return value


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
