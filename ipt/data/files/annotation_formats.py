"""Recognize the JSON formats of annotation tools and chats, and read the text and the label of each record."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ipt.data.files.columns import is_usual_input

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a record holds: a text and a label, either of which may be missing, or a reason to skip the record."""

    text: object = None
    label: object = None
    skip: str | None = None


@dataclass(frozen=True, slots=True)
class AnnotationFormat:
    name: str
    matches: Callable[[Record], bool]
    read: Callable[[Record], Reading]


def recognize(records: Sequence[Record]) -> AnnotationFormat | None:
    """Return the format that all of these records have, None if they are plain rows."""
    return next((known for known in _FORMATS if records and all(map(known.matches, records))), None)


def _is_label_studio(record: Record) -> bool:
    return isinstance(record.get("data"), dict) and isinstance(record.get("annotations"), list)


def _read_label_studio(record: Record) -> Reading:
    kept = [
        entry for entry in record["annotations"] if isinstance(entry, dict) and entry.get("was_cancelled") is not True
    ]
    results = [result for entry in kept for result in entry.get("result") or [] if isinstance(result, dict)]
    choices = [
        choice
        for result in results
        if isinstance(result.get("value"), dict)
        for choice in result["value"].get("choices") or []
    ]
    if not choices:
        return Reading(skip="not annotated")
    return Reading(_text_of(record["data"]), list(dict.fromkeys(map(str, choices))))


def _is_prodigy(record: Record) -> bool:
    return record.get("answer") in ("accept", "reject", "ignore") and "text" in record


def _read_prodigy(record: Record) -> Reading:
    if record["answer"] != "accept":
        return Reading(skip=f"answered with {record['answer']}")
    label = record.get("label", record.get("accept"))
    return Reading(record["text"], label)


def _is_spacy(record: Record) -> bool:
    return isinstance(record.get("cats"), dict) and "text" in record


def _read_spacy(record: Record) -> Reading:
    return Reading(record["text"], [name for name, value in record["cats"].items() if _is_positive(value)])


def _is_argilla(record: Record) -> bool:
    return ("annotation" in record and ("inputs" in record or "text" in record)) or (
        isinstance(record.get("fields"), dict) and "responses" in record
    )


def _read_argilla(record: Record) -> Reading:
    if record.get("status") in ("Discarded", "discarded"):
        return Reading(skip="discarded")
    if "fields" in record:
        labels = _argilla_responses(record["responses"])
        return Reading(_text_of(record["fields"]), labels) if labels else Reading(skip="not annotated")
    if record["annotation"] is None:
        return Reading(skip="not annotated")
    inputs = record.get("inputs", record.get("text"))
    return Reading(_text_of(inputs) if isinstance(inputs, dict) else inputs, record["annotation"])


def _argilla_responses(responses: object) -> list[Any]:
    questions = list(responses.values()) if isinstance(responses, dict) else [responses]
    answers = [entry for answers in questions for entry in (answers if isinstance(answers, list) else [])]
    values = []
    for answer in answers:
        if isinstance(answer, dict) and answer.get("status", "submitted") == "submitted":
            inner = answer.get("values")
            nested = list(inner.values()) if isinstance(inner, dict) else [answer]
            values += [entry.get("value") for entry in nested if isinstance(entry, dict)]
    return list(dict.fromkeys(value for value in values if isinstance(value, str)))


def _is_chat(record: Record) -> bool:
    turns = record.get("messages", record.get("conversations"))
    return isinstance(turns, list) and len(turns) >= 2 and all(isinstance(turn, dict) for turn in turns)


def _read_chat(record: Record) -> Reading:
    turns = [
        (turn.get("role", turn.get("from")), turn.get("content", turn.get("value")))
        for turn in record.get("messages", record.get("conversations")) or ()
    ]
    spoken = [(role, content) for role, content in turns if role not in ("system", "developer")]
    if len(spoken) < 2 or spoken[-1][0] not in ("assistant", "gpt", "model", "bot"):
        return Reading(skip="the chat does not end with an answer of the assistant")
    texts = [content for _, content in spoken[:-1]]
    if len(texts) == 1:
        return Reading(texts[0], spoken[-1][1])
    if not all(isinstance(content, str) for content in texts):
        return Reading(None, spoken[-1][1])
    return Reading("\n".join(texts), spoken[-1][1])


_PROMPT_END = re.compile(r"\s*(?:###|->|=>)\s*\Z")


def _is_prompt_completion(record: Record) -> bool:
    return isinstance(record.get("prompt"), str) and isinstance(record.get("completion"), str)


def _read_prompt_completion(record: Record) -> Reading:
    """Remove the separator after the prompt and the blank before the completion that fine-tuning guides recommend."""
    prompt = record["prompt"]
    # Only the last characters are searched: the expression would be tried from every blank of a long text.
    tail = _PROMPT_END.sub("", prompt[-20:])
    return Reading((prompt[:-20] + tail).strip() or prompt, record["completion"].strip())


def _text_of(fields: Record) -> object:
    """Return the text of a record's fields: the only one, or the one with a usual name."""
    if len(fields) == 1:
        return next(iter(fields.values()))
    usual = [value for name, value in fields.items() if is_usual_input(name)]
    return usual[0] if len(usual) == 1 else None


def _is_positive(value: object) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return float(str(value)) >= 0.5
    except ValueError:
        return False


_FORMATS = (
    AnnotationFormat("Label Studio", _is_label_studio, _read_label_studio),
    AnnotationFormat("Prodigy", _is_prodigy, _read_prodigy),
    AnnotationFormat("spaCy", _is_spacy, _read_spacy),
    AnnotationFormat("Argilla", _is_argilla, _read_argilla),
    AnnotationFormat("chat", _is_chat, _read_chat),
    AnnotationFormat("prompt and completion", _is_prompt_completion, _read_prompt_completion),
)
