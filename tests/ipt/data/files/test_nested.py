"""Records whose texts and labels are in nested objects: read if usual names tell one of each, else refused by name."""

import json
from typing import Any

import pytest

from ipt.data.files.errors import DatasetFileError
from ipt.data.files.nested import flattened
from ipt.data.files.reader import read_dataset
from tests.support.written_files import PAIRS, lines

RECORDS: dict[str, tuple[Any, str, str]] = {
    "an object around the text": (lambda a, b: {"data": {"text": a, "id": 7}, "label": b}, "data.text", "label"),
    "an object around both": (
        lambda a, b: {"ticket": {"body": a, "queue": 3, "topic": b}},
        "ticket.body",
        "ticket.topic",
    ),
    "a name of a label": (lambda a, b: {"text": a, "label": {"id": 3, "name": b}}, "text", "label.name"),
    "a list of labels": (lambda a, b: {"doc": {"text": a}, "labels": [b]}, "doc.text", "labels"),
    "a name of an intent": (
        lambda a, b: {"message": {"text": a}, "intent": {"name": b, "confidence": 0.9}},
        "message.text",
        "intent.name",
    ),
    "an annotation of Vertex AI": (
        lambda a, b: {"textContent": a, "classificationAnnotation": {"displayName": b}, "labels_of": {"ml_use": "x"}},
        "textContent",
        "classificationAnnotation.displayName",
    ),
    "an export of MongoDB": (
        lambda a, b: {"_id": {"$oid": "5f"}, "text": a, "label": {"$numberInt": b}},
        "text",
        "label.$numberInt",
    ),
    "a sender and a language": (
        lambda a, b: {"message": {"text": a, "sender": "x", "lang": "en"}, "intent": b},
        "message.text",
        "intent",
    ),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_nested_fields_with_usual_names_are_read(kind: str) -> None:
    record, text, label = RECORDS[kind]
    file = read_dataset(lines(record(*pair) for pair in PAIRS).encode())
    assert [(row.input, row.output) for row in file.examples] == PAIRS
    assert file.source.columns == {"input": text, "output": label}


def test_names_of_objects_are_not_repeated_without_limit() -> None:
    fields = {str(number): "x" for number in range(3000)}
    for name in ("k" * 100_000, "k" * 200):
        assert sum(map(len, flattened({name: fields}))) < 500_000
    record = {"text": "x", "label": {"name": "a"}, "k": fields}
    with pytest.raises(DatasetFileError, match="more than 1000 columns"):
        read_dataset(lines([record] * 60).encode())


REVIEWS = lines({"review": {"body": text, "title": "t"}, "meta": {"stars": label}} for text, label in PAIRS).encode()


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"review": {"body": "x"}, "meta": {"stars": 5}}, "different objects: 'review.body' .*, 'meta.stars' may"),
        ({"review": {"body": "x", "title": "y"}, "label": "a"}, "several .*: 'review.body', 'review.title' may hold"),
        ({"a": {"b": "x"}, "c": "y"}, r"no two have usual names \('a.b', 'c'\)"),
    ],
)
def test_nested_fields_that_leave_a_choice_are_refused_with_their_dotted_names(
    record: dict[str, object], fault: str
) -> None:
    with pytest.raises(DatasetFileError, match=fault + ".*such as input_column=data.text"):
        read_dataset(lines([record]).encode())


@pytest.mark.parametrize("output_column", ["meta.stars", None])
def test_dotted_names_name_nested_fields(output_column: str | None) -> None:
    file = read_dataset(REVIEWS, input_column="review.body", output_column=output_column)
    assert [(row.input, row.output) for row in file.examples] == PAIRS
    with pytest.raises(DatasetFileError, match=r"no column of this name; its columns are 'review\.body', "):
        read_dataset(REVIEWS, input_column="review.text", output_column=output_column)


def test_questions_of_squad_are_read_with_their_passages() -> None:
    questions = [{"question": "Who?", "answers": [{"text": "Ann"}]}, {"question": "Why?", "answers": []}]
    article = {"title": "t", "paragraphs": [{"context": "Ann is here.", "qas": questions}] * 2}
    read = read_dataset(json.dumps({"version": "2.0", "data": [article]}).encode())
    assert read.source.format == "json (SQuAD)"
    assert [(row.input, row.output) for row in read.examples] == [("question: Who? context: Ann is here.", "Ann")] * 2
