"""Read a label from a cell of a table, or from a value of a JSON object."""

from __future__ import annotations

import json
import re

_MAX_CHARS = 10_000
_FASTTEXT = "__label__"
# A list as Python prints it: ['refund'] or ['refund', 'account'].
_PYTHON_LIST = re.compile(r"\[\s*'[^'\\]*'(?:\s*,\s*'[^'\\]*')*\s*\]")
_NAMES = ("name", "label", "value")


def label_of(value: object) -> object:
    """Return the label of a value: without the wrapping of a tool, or as it is."""
    if isinstance(value, list):
        return [label_of(entry) for entry in value]
    if isinstance(value, dict):
        return _label_of_object(value)
    if not isinstance(value, str) or len(value) > _MAX_CHARS:
        return value
    if value.startswith(_FASTTEXT):
        return value.removeprefix(_FASTTEXT)
    if value.startswith(('{"choices"', '["')):
        return _label_of_json(value)
    if _PYTHON_LIST.fullmatch(value):
        return re.findall(r"'([^']*)'", value)
    return value


def _label_of_object(value: dict[str, object]) -> object:
    """Return the choices of Label Studio, or the name of a label with properties; another object as it is."""
    choices = value.get("choices")
    if isinstance(choices, list | str):
        return choices
    names = [value[name] for name in _NAMES if isinstance(value.get(name), str)]
    return names[0] if names else value


def _label_of_json(cell: str) -> object:
    try:
        value: object = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return _label_of_object(value) if isinstance(value, dict) else value
