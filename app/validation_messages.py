"""Messages for values that Pydantic rejects, in plain English and without quoting the value."""

from collections.abc import Mapping
from typing import Any

# By Pydantic's error type; placeholders are filled from the error's own context.
_MESSAGES = {
    "missing": "this field is required",
    "extra_forbidden": "unknown field",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "list_type": "must be a JSON list",
    "too_long": "has {actual_length} {units}; at most {max_length} are allowed",
    "too_short": "has {actual_length} {units}; at least {min_length} are required",
    "string_type": "must be text, in quotes",
    "string_too_long": "has too many characters; at most {max_length} are allowed",
    "string_too_short": "has too few characters; at least {min_length} are required",
    "string_pattern_mismatch": "has characters that are not allowed; it must match {pattern}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number with fewer digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number: JSON has no NaN or Infinity, and no numbers beyond 1e308",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


def explain(error: Mapping[str, Any]) -> str:
    """Return the message for one entry of `ValidationError.errors()`."""
    context = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in error.get("ctx", {}).items()
    }
    # Pydantic calls the characters of a string items of a "Value" if a function has validated it before.
    units = "characters" if context.get("field_type") == "Value" else "entries"
    message = _MESSAGES.get(error["type"])
    if message is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return message.format(**context, units=units)
