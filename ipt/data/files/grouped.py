"""JSON objects that hold several rows: an intent with its phrases, or a passage with its questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from ipt.data.files.columns import folded, is_usual_input

Pair = tuple[str, str]

_PHRASES = (
    "patterns",
    "examples",
    "utterances",
    "phrases",
    "texts",
    "sentences",
    "samples",
    "queries",
    "questions",
    "inputs",
    "expressions",
    "usersays",
    "trainingphrases",
)
_LABELS = ("tag", "intent", "label", "name", "displayname", "class", "category", "output", "topic")
_PIECES = ("data", "parts")
_MIN_TEXTS_BY_LABEL = 4


def pairs_of_phrases(record: Mapping[str, Any]) -> list[Pair] | None:
    """Return the texts and the label of an object that has a list of texts and a label; None for any other object."""
    by_name = {folded(key): value for key, value in record.items()}
    label = next((by_name[name] for name in _LABELS if isinstance(by_name.get(name), str)), None)
    phrases = _phrases(by_name)
    has_text = any(isinstance(value, str) and is_usual_input(key) for key, value in record.items())
    return None if label is None or phrases is None or has_text else [(text, label) for text in phrases]


def pairs_of_questions(record: Mapping[str, Any]) -> list[Pair] | None:
    """Return each question with its passage, and its first answer, of an article of SQuAD; None for any other object.

    Questions without an answer are left out.
    """
    paragraphs = record.get("paragraphs")
    pairs: list[Pair] = []
    for paragraph in paragraphs if isinstance(paragraphs, list) else ():
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("context"), str):
            return None
        for entry in paragraph.get("qas") or ():
            answers = entry.get("answers") if isinstance(entry, dict) else None
            if answers and isinstance(answers[0], dict) and isinstance(entry.get("question"), str):
                text = f"question: {entry['question'].strip()} context: {paragraph['context'].strip()}"
                pairs.append((text, str(answers[0].get("text", ""))))
    return pairs or None


def pairs_of_keys(record: Mapping[str, Any]) -> list[Pair] | None:
    """Return the pairs of an object whose keys are labels with texts, or texts with labels; None for any other one."""
    values = list(record.values())
    if values and all(isinstance(value, str) for value in values):
        # Labels repeat; the fields of a single row do not.
        repeat = len(values) >= _MIN_TEXTS_BY_LABEL and 1 < len(set(values)) <= len(values) / 2
        return list(record.items()) if repeat else None
    pairs: list[Pair] = []
    for label, value in record.items():
        inner = {folded(key): texts for key, texts in value.items()} if isinstance(value, dict) else None
        texts = value if inner is None else _phrases(inner)
        if not _are_texts(texts):
            return None
        pairs += [(text, label) for text in texts]
    return pairs or None


def _are_texts(values: object) -> TypeGuard[list[str]]:
    """Return whether a list has different texts: values that mostly repeat are a column of labels."""
    return (
        isinstance(values, list)
        and all(isinstance(value, str) for value in values)
        and (len(values) < _MIN_TEXTS_BY_LABEL or len(set(values)) * 2 > len(values))
    )


def _phrases(by_name: Mapping[str, Any]) -> list[str] | None:
    """Return the texts of the first list with a usual name, None if there is none."""
    for name in _PHRASES:
        values = by_name.get(name)
        if isinstance(values, list):
            texts = [text for value in values if (text := _text_of(value)) is not None]
            return texts if len(texts) == len(values) else None
    return None


def _text_of(value: object) -> str | None:
    """Return a phrase: a text, an object with one, or one that is split into pieces at its entities."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    if isinstance(text := value.get("text"), str):
        return text
    pieces: Sequence[object] = next((value[name] for name in _PIECES if isinstance(value.get(name), list)), ())
    texts = [piece.get("text") for piece in pieces if isinstance(piece, dict)]
    return "".join(map(str, texts)) if texts and all(isinstance(text, str) for text in texts) else None
