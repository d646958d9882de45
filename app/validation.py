"""Say in plain words what is wrong with a value that Pydantic refused, without quoting the value."""

import re
from collections.abc import Mapping
from typing import Any

# By Pydantic's name of the error; {…} is filled from the error's own context.
_MESSAGES = {
    "missing": "this field is required",
    "extra_forbidden": "there is no such field",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "list_type": "must be a JSON list",
    "too_long": "has {actual_length} {things}; at most {max_length} are taken",
    "too_short": "has {actual_length} {things}; at least {min_length} must be there",
    "string_type": "must be text, in quotes",
    "string_too_long": "has too many characters; at most {max_length} are taken",
    "string_too_short": "has too few characters; at least {min_length} must be there",
    "string_pattern_mismatch": "has characters that are not taken: it must match {pattern}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number: JSON has no NaN or Infinity, nor numbers beyond 1e308",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def is_field_name(name: str) -> bool:
    """Whether this could be a name of ours; any other one the caller made up, and no error repeats it."""
    return _FIELD_NAME.fullmatch(name) is not None


def explain(error: Mapping[str, Any]) -> str:
    """One entry of `ValidationError.errors()` as a person would say it."""
    context = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in error.get("ctx", {}).items()
    }
    # Pydantic counts the characters of a text that a function has checked as items of a "Value".
    things = "characters" if context.get("field_type") == "Value" else "entries"
    message = _MESSAGES.get(error["type"])
    if message is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return message.format(**context, things=things)
