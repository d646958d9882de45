"""How a label is written as an answer: as text, or as JSON of a requested form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import InvalidError
from app.http.fields import StrictBody

_DEFAULT_PROPERTY = "label"
_PARAM = "response_format"


class ResponseFormat(StrictBody):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """`property` is the name in a JSON object, None for plain text; `allowed` are the labels of a schema's enum."""

    property: str | None = None
    allowed: frozenset[str] | None = None

    def restrict(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the scores of the allowed labels, which add up to 1 again.

        Raises:
            InvalidError: the task has none of the allowed labels.
        """
        if self.allowed is None:
            return dict(scores)
        kept = {label: score for label, score in scores.items() if label in self.allowed}
        if not kept:
            raise InvalidError("no label of the model is in the schema's enum", code="invalid_value", param=_PARAM)
        total = sum(kept.values())
        return {label: score / total if total else 1 / len(kept) for label, score in kept.items()}

    def write(self, label: str) -> str:
        """Return the answer for a label. A label that is a JSON object itself is the answer."""
        if self.property is None or _is_json_object(label):
            return label
        return json.dumps({self.property: label}, ensure_ascii=False)


def label_format(requested: ResponseFormat | None) -> LabelFormat:
    """Return the format that a request asks for.

    Raises:
        InvalidError: the schema is not an object with one text property.
    """
    if requested is None or requested.type == "text":
        return LabelFormat()
    if requested.type == "json_object":
        return LabelFormat(_DEFAULT_PROPERTY)
    of_schema = _format_of_schema((requested.json_schema or {}).get("schema"))
    if of_schema is None:
        raise InvalidError(
            "the schema must be an object with one property, a string or an enum of labels",
            code="invalid_value",
            param=_PARAM,
        )
    return of_schema


def _format_of_schema(schema: Any) -> LabelFormat | None:
    """Return the format that a JSON schema describes, None if a label cannot have this form."""
    properties = schema.get("properties") if isinstance(schema, dict) and schema.get("type") == "object" else None
    if not isinstance(properties, dict) or len(properties) != 1:
        return None
    [(name, entry)] = properties.items()
    entry = _resolved(entry, schema)
    labels = entry.get("enum", [entry["const"]] if "const" in entry else None)
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
        return LabelFormat(name, frozenset(labels))
    return LabelFormat(name) if labels is None and entry.get("type") == "string" else None


def _resolved(entry: Any, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a property; Pydantic writes an `Enum` as a reference to a definition."""
    reference = entry.get("$ref") if isinstance(entry, dict) else None
    if isinstance(reference, str):
        prefix, _, name = reference.rpartition("/")
        definitions = schema.get(prefix.removeprefix("#/"))
        entry = definitions.get(name) if isinstance(definitions, dict) else None
    return entry if isinstance(entry, dict) else {}


def _is_json_object(text: str) -> bool:
    try:
        return text.startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
