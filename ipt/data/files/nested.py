"""Find the text and the label in records with nested objects, such as {"data": {"text": "…"}, "label": "…"}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from ipt.data.files.columns import (
    MAX_COLUMNS,
    MAX_NAME_CHARS,
    Columns,
    ColumnsError,
    choose_columns,
    folded,
    is_usual_input,
    is_usual_output,
    may_be_input,
    may_be_output,
    named_columns,
    text_pair,
)
from ipt.data.names import is_short_name, listed

Record = Mapping[str, Any]

_MAX_DEPTH = 8
_GENERIC = frozenset(["name", "displayName", "value", "text", "title", "label", "choices"])
"""Names within an object that the object's own name explains, as in {"label": {"name": "…"}}."""


def is_nested(records: Iterable[Record], columns: Columns) -> bool:
    """Return whether one of the columns holds objects; an object with choices is a label of Label Studio."""
    values = (record.get(name) for record in records for name in columns.names)
    return any(isinstance(value, dict) and "choices" not in value for value in values)


def flattened(record: Record, depth: int = _MAX_DEPTH) -> dict[str, Any]:
    """Return a record whose nested fields have dotted names, such as data.text.

    Objects with long names are kept, and fields beyond one more than `MAX_COLUMNS` left out: each field repeats the
    names of its objects.
    """
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and value and depth > 0 and len(name) <= MAX_NAME_CHARS:
            fields |= {f"{name}.{path}": inner for path, inner in flattened(value, depth - 1).items()}
        else:
            fields[name] = value
        if len(fields) > MAX_COLUMNS:
            return dict(islice(fields.items(), MAX_COLUMNS + 1))
    return fields


def choose_fields(paths: Sequence[str], input_column: str | None, output_column: str | None) -> Columns:
    """Return the dotted names of the input and the output, if usual names tell exactly one of each.

    They are read if one of them is not nested, or if both are in the same object.

    Args:
        paths: the dotted names of the fields.
        input_column, output_column: dotted names from the caller, None to find usual names.

    Raises:
        ColumnsError: a named field is missing, or there is a choice; the message names the fields in question.
    """
    if input_column is not None and output_column is not None:
        return choose_columns(paths, input_column, output_column)
    roles = {path: _role(path) for path in paths}
    inputs = _inputs(roles) if input_column is None else named_columns(paths, input_column)
    outputs = _outputs(roles) if output_column is None else named_columns(paths, output_column)
    outputs = tuple(path for path in outputs if path not in inputs)
    is_joined = input_column is not None or _pair(roles) == inputs
    if inputs and len(outputs) == 1 and (len(inputs) == 1 or is_joined):
        objects = {_object_of(path) for path in (*inputs, *outputs)}
        is_named = input_column is not None or output_column is not None
        if is_named or len(objects) == 1 or "" in objects:
            return Columns(inputs, outputs[0])
        raise _choice("the input and the output are in different objects", inputs, outputs)
    if inputs and outputs:
        raise _choice("several have usual names", inputs, outputs)
    raise _choice(f"no two have usual names ({listed([repr(path) for path in paths if is_short_name(path)])})", (), ())


def _role(path: str) -> str:
    """Return the name that says what a field holds: its own, or that of its object if that says more."""
    parents, _, last = path.rpartition(".")
    parent = parents.rpartition(".")[2]
    # A number of MongoDB is {"$numberInt": "5"}; a value is what its object is called.
    if last.startswith("$") or (last == "value" and parent) or (last in _GENERIC and may_be_output(parent)):
        return parent
    return last


def _object_of(path: str) -> str:
    """Return the dotted name of the object that has a field; that of its object, if the field only says its value."""
    parents, _, last = path.rpartition(".")
    return parents if _role(path) == last else parents.rpartition(".")[0]


def _pair(roles: Mapping[str, str]) -> tuple[str, ...]:
    return text_pair({folded(role): path for path, role in roles.items()}) or ()


def _inputs(roles: Mapping[str, str]) -> tuple[str, ...]:
    usual = tuple(path for path, role in roles.items() if is_usual_input(role))
    return _pair(roles) or usual or tuple(path for path, role in roles.items() if may_be_input(role))


def _outputs(roles: Mapping[str, str]) -> tuple[str, ...]:
    usual = tuple(path for path, role in roles.items() if is_usual_output(role))
    return usual or tuple(path for path, role in roles.items() if may_be_output(role))


def _choice(fault: str, inputs: Sequence[str], outputs: Sequence[str]) -> ColumnsError:
    found = [
        f"{listed([repr(path) for path in paths])} may hold the {what}"
        for what, fields in (("inputs", inputs), ("outputs", outputs))
        if (paths := [path for path in fields if is_short_name(path)])
    ]
    join = ", or input_column=title,body to join several inputs" if len(inputs) > 1 else ""
    return ColumnsError(
        f"the rows have nested fields, and {fault}{': ' if found else ''}{', '.join(found)}: name two of them with "
        f"input_column and output_column, such as input_column=data.text{join}"
    )
