"""How labels are written as an answer: as text, or as JSON of a requested form."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import InvalidError
from app.http.fields import StrictBody

_ONE, _SEVERAL = "label", "labels"
_PARAM = "response_format"


class ResponseFormat(StrictBody):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """`property` is the name in a JSON object, None without one; `allowed` are the labels of a schema's enum."""

    several: bool
    """Whether an answer is a list of labels."""
    property: str | None = None
    allowed: frozenset[str] | None = None

    def restrict(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the scores of the allowed labels, which add up to 1 again if an answer is one label.

        Raises:
            InvalidError: the task has none of the allowed labels.
        """
        if self.allowed is None:
            return dict(scores)
        kept = {label: score for label, score in scores.items() if label in self.allowed}
        if not kept:
            raise InvalidError("no label of the model is in the schema's enum", code="invalid_value", param=_PARAM)
        if self.several:
            return kept
        total = sum(kept.values())
        return {label: score / total if total else 1 / len(kept) for label, score in kept.items()}

    def write(self, labels: Sequence[str]) -> str:
        """Return the answer for labels. A single label that is a JSON object itself is the answer."""
        if not self.several and (self.property is None or _is_json_object(labels[0])):
            return labels[0]
        value = list(labels) if self.several else labels[0]
        return json.dumps(value if self.property is None else {self.property: value}, ensure_ascii=False)


def label_format(requested: ResponseFormat | None, *, several: bool) -> LabelFormat:
    """Return the format that a request asks for.

    Raises:
        InvalidError: the schema is not an object with one property, which a label or a list of labels fits.
    """
    if requested is None or requested.type == "text":
        return LabelFormat(several)
    if requested.type == "json_object":
        return LabelFormat(several, _SEVERAL if several else _ONE)
    of_schema = _format_of_schema((requested.json_schema or {}).get("schema"), several)
    if of_schema is None:
        form = "an array of strings or of an enum of labels" if several else "a string or an enum of labels"
        message = f"the schema must be an object with one property, {form}"
        raise InvalidError(message, code="invalid_value", param=_PARAM)
    return of_schema


def _format_of_schema(schema: Any, several: bool) -> LabelFormat | None:
    """Return the format that a JSON schema describes, None if labels cannot have this form."""
    properties = schema.get("properties") if isinstance(schema, dict) and schema.get("type") == "object" else None
    if not isinstance(properties, dict) or len(properties) != 1:
        return None
    [(name, entry)] = properties.items()
    entry = _resolved(entry, schema)
    if several:
        entry = _resolved(entry.get("items", {"type": "string"}), schema) if entry.get("type") == "array" else {}
    labels = entry.get("enum", [entry["const"]] if "const" in entry else None)
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
        return LabelFormat(several, name, frozenset(labels))
    return LabelFormat(several, name) if labels is None and entry.get("type") == "string" else None


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
