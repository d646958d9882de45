"""Find the text and the label in records with nested objects, such as {"data": {"text": "…"}, "label": "…"}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ipt.data.files.columns import (
    Columns,
    ColumnsError,
    choose_columns,
    folded,
    is_usual_input,
    is_usual_output,
    may_be_input,
    may_be_output,
    text_pair,
)
from ipt.data.names import is_short_name, listed

Record = Mapping[str, Any]

_MAX_DEPTH = 8
_GENERIC = frozenset(["name", "value", "text", "title", "label", "choices"])
"""Names within an object that the object's own name explains, as in {"label": {"name": "…"}}."""


def is_nested(records: Iterable[Record], columns: Columns) -> bool:
    """Return whether one of the columns holds objects; an object with choices is a label of Label Studio."""
    values = (record.get(name) for record in records for name in columns.names)
    return any(isinstance(value, dict) and "choices" not in value for value in values)


def flattened(record: Record, depth: int = _MAX_DEPTH) -> dict[str, Any]:
    """Return a record whose nested fields have dotted names, such as data.text."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and value and depth > 0:
            fields |= {f"{name}.{path}": inner for path, inner in flattened(value, depth - 1).items()}
        else:
            fields[name] = value
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
    named = None if input_column is None and output_column is None else _named(paths, input_column, output_column)
    inputs = named if named and input_column is not None else _inputs(roles)
    outputs = named if named and output_column is not None else _outputs(roles)
    outputs = tuple(path for path in outputs if path not in inputs)
    is_joined = input_column is not None or _pair(roles) == inputs
    if inputs and len(outputs) == 1 and (len(inputs) == 1 or is_joined):
        objects = {path.rpartition(".")[0] for path in (*inputs, *outputs)}
        if named or len(objects) == 1 or "" in objects:
            return Columns(inputs, outputs[0])
        raise _choice("the input and the output are in different objects", inputs, outputs)
    if inputs and outputs:
        raise _choice("several have usual names", inputs, outputs)
    raise _choice(f"no two have usual names ({listed([repr(path) for path in paths if is_short_name(path)])})", (), ())


def _named(paths: Sequence[str], input_column: str | None, output_column: str | None) -> tuple[str, ...]:
    """Return the fields that the caller names, of which there are only inputs or only an output."""
    if input_column is not None:
        return choose_columns([*paths, "output"], input_column, "output").inputs
    return (choose_columns([*paths, "input"], "input", output_column).output,)


def _role(path: str) -> str:
    """Return the name that says what a field holds: its own, or that of its object if that says more."""
    parents, _, last = path.rpartition(".")
    parent = parents.rpartition(".")[2]
    return parent if last in _GENERIC and is_usual_output(parent) else last if last != "value" or not parent else parent


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
    return ColumnsError(
        f"the rows have nested fields, and {fault}{': ' if found else ''}{', '.join(found)}: name two of them with "
        "input_column and output_column, such as input_column=data.text"
    )
