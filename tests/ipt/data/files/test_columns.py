"""Columns with the parts of a text: a usual pair, or columns that the caller names, are joined by one rule."""

from typing import Any

import pytest

from ipt.data.files.errors import DatasetFileError
from ipt.data.files.reader import read_dataset
from tests.support.written_files import lines, table

PAIRED: dict[str, tuple[str, dict[str, str]]] = {
    "a: first b: second": (table([("first", "second", "yes")], ("a", "b", "label")), {"input_column": "a, b"}),
    "premise: first hypothesis: second": (table([("yes", "second", "first")], ("label", "hypothesis", "premise")), {}),
    "question: first context: second": (
        lines([{"id": 1, "context": "second", "question": "first", "answers": {"text": ["yes"], "answer_start": [3]}}]),
        {},
    ),
    "question1: first question2: second": (
        table([(7, "first", "second", "yes")], ("id", "question1", "question2", "is_duplicate")),
        {},
    ),
    "sentence1: first sentence2: second": (
        lines([{"annotator_labels": ["no"], "gold_label": "yes", "sentence1": "first", "sentence2": "second"}]),
        {},
    ),
    "#1 String: first #2 String: second": (
        table([("yes", 1, "first", "second")], ("Quality", "#1 ID", "#1 String", "#2 String"), "\t"),
        {},
    ),
    "text_a: first text_b: second": (
        lines([{"text_a": "first", "text_b": "second", "verdict": "yes"}]),
        {"output_column": "verdict"},
    ),
}


@pytest.mark.parametrize("joined", PAIRED)
def test_two_texts_are_joined_after_the_names_of_their_columns(joined: str) -> None:
    content, options = PAIRED[joined]
    file = read_dataset(content.encode(), **options)  # type: ignore[arg-type]
    assert [(row.input, row.output) for row in file.examples] == [(joined, "yes")]
    pattern = joined.replace("first", "…").replace("second", "…")
    assert file.source.notes[0] == (
        f"columns are joined to inputs {pattern!r}: write the inputs of predictions in the same way"
    )


def test_a_row_that_lacks_a_part_is_missing_its_text() -> None:
    with pytest.raises(DatasetFileError, match=r"1 row has no text \(line 3\)"):
        read_dataset(table([("x", "y", "a"), ("x", " ", "a")], ("premise", "hypothesis", "label")).encode())


def test_a_long_name_is_not_repeated_in_every_row() -> None:
    header = ("premise" + "_" * 50_000, "hypothesis", "label")
    examples = read_dataset(table([("x", "y", "a")] * 100, header).encode()).examples
    assert sum(len(example.input) for example in examples) < 50_000


def test_text_and_label_come_before_a_pair() -> None:
    row: dict[str, Any] = {"text": "x", "label": "a", "question1": "y", "question2": "z"}
    assert read_dataset(lines([row]).encode()).examples[0].input == "x"


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (("premise", "hypothesis", "more"), "'premise', 'hypothesis' hold the inputs, but no name tells the outputs"),
        (("question1", "question2", "question3", "label"), "no two columns have usual names"),
        (("premise", "hypothesis", "label", "score"), "but 'label', 'score' may all hold the outputs"),
    ],
)
def test_a_pair_without_one_label_is_refused(header: tuple[str, ...], fault: str) -> None:
    with pytest.raises(DatasetFileError, match=fault):
        read_dataset(table([["x"] * len(header)], header).encode())


def test_a_row_without_a_gold_label_is_skipped() -> None:
    rows = [{"gold_label": label, "sentence1": "x", "sentence2": "y"} for label in ("yes", "-")]
    source = read_dataset(lines(rows).encode()).source
    assert (source.rows, [(row.line, row.reason) for row in source.skipped_rows]) == (1, [(2, "without a gold label")])
