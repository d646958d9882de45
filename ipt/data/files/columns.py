"""Choose the input and the output column of a dataset by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ipt.data.files.errors import DatasetFileError
from ipt.data.names import is_short_name, listed

MAX_COLUMNS = 1000
# Tried in this order, before any other combination of a usual input with a usual output.
_PAIRS = (
    ("input", "output"),
    ("text", "label"),
    ("utterance", "intent"),
    ("sentence", "label"),
    ("sentence", "class"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("source", "target"),
    ("review", "sentiment"),
    ("reviewtext", "overall"),
    ("data", "label"),  # doccano's older exports
    ("v2", "v1"),  # the SMS Spam Collection, whose labels come first
)
_INPUTS = frozenset(
    [
        "input",
        "text",
        "utterance",
        "sentence",
        "message",
        "query",
        "question",
        "prompt",
        "review",
        "reviewtext",
        "content",
        "document",
        "tweet",
        "comment",
        "body",
        "headline",
        "title",
        "email",
        "post",
        "description",
    ]
)
_OUTPUTS = frozenset(
    [
        "output",
        "label",
        "intent",
        "class",
        "category",
        "sentiment",
        "topic",
        "tag",
        "target",
        "answer",
        "completion",
        "response",
        "rating",
        "stars",
        "overall",
        "score",
        "emotion",
    ]
)
_SEPARATORS = re.compile(r"[\s_\-.\u200b\ufeff]+")


class ColumnsError(DatasetFileError):
    """The input and output columns cannot be chosen."""


def folded(name: str) -> str:
    """Return a column's name without case, blanks, hyphens and underscores."""
    return _SEPARATORS.sub("", name.casefold())


def is_usual_input(name: str) -> bool:
    """Return whether a column's name usually stands for the inputs."""
    return folded(name) in _INPUTS


def choose_columns(
    names: Sequence[str], input_column: str | None, output_column: str | None, hint: str = ""
) -> tuple[str, str]:
    """Return the names of the input and output columns, of which the caller may have named either.

    Args:
        names: the columns of the file; empty names are ignored.
        input_column, output_column: the caller's names, None to find usual names.
        hint: a likely reason, for the error.

    Raises:
        ColumnsError: a named column is missing, or the usual names leave no choice or several.
    """
    by_folded: dict[str, str] = {}
    for name in names:
        by_folded.setdefault(folded(name), name)
    by_folded.pop("", None)
    named_input, named_output = (
        None if column is None else _find(names, by_folded, column, hint) for column in (input_column, output_column)
    )
    if named_input is not None and named_input == named_output:
        raise _error("input_column and output_column are the same column", names, hint)
    if named_input is not None and named_output is not None:
        return named_input, named_output
    pairs = [*_PAIRS, *_only_combination(by_folded, named_input, named_output)]
    repeated = False
    for usual_input, usual_output in pairs:
        text = by_folded.get(usual_input) if named_input is None else named_input
        label = by_folded.get(usual_output) if named_output is None else named_output
        if text is not None and text == label:
            repeated = True
        elif text is not None and label is not None:
            return text, label
    if repeated:
        raise _error("input_column and output_column are the same column", names, hint)
    raise _error("no two columns have usual names, such as input and output, or text and label", names, hint)


def check_columns(names: Sequence[str], line: int | None) -> None:
    """Check the header of a table.

    Raises:
        DatasetFileError: it has too many columns, or two of the same name.
    """
    if len(names) > MAX_COLUMNS:
        message = f"the header has {len(names)} columns, at most {MAX_COLUMNS} are supported: remove unused columns"
        raise DatasetFileError(message, line=line)
    first_of: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = first_of.setdefault(name, number)
        if first != number and name.strip():
            raise DatasetFileError(f"columns {first} and {number} of the header have the same name", line=line)


def _find(names: Sequence[str], by_folded: dict[str, str], column: str, hint: str) -> str:
    found = column if column in names else by_folded.get(folded(column))
    if found is None:
        raise _error("the file has no column of this name", names, hint)
    return found


def _only_combination(
    by_folded: dict[str, str], named_input: str | None, named_output: str | None
) -> list[tuple[str, str]]:
    """Return the only usual input and output, or an empty list if the file has several of either."""
    inputs = [name for name, column in by_folded.items() if name in _INPUTS and column != named_output]
    outputs = [name for name, column in by_folded.items() if name in _OUTPUTS and column != named_input]
    inputs = inputs if named_input is None else [""]
    outputs = outputs if named_output is None else [""]
    return [(inputs[0], outputs[0])] if len(inputs) == len(outputs) == 1 else []


def _error(fault: str, names: Sequence[str], hint: str) -> ColumnsError:
    shown = [repr(name) for name in names if is_short_name(name)]
    columns = f"; its columns are {listed(shown)}" if shown and not hint else ""
    return ColumnsError(f"{fault}{hint}{columns}: name two columns of the file with input_column and output_column")
