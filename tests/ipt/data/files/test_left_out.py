"""Parts of a file that are not read are named, and rows that are not annotated yet are skipped."""

import json

import pytest

from ipt.data.files.errors import DatasetFileError
from ipt.data.files.reader import read_dataset
from ipt.data.labels import label_warnings
from tests.support.workbooks import workbook
from tests.support.written_files import LABELS, PAIRS, lines, records, table

NEW = [{"text": "a new text", "label": "refund"}] * 3


def noted(content: object) -> tuple[int, tuple[str, ...]]:
    source = read_dataset(content if isinstance(content, bytes) else json.dumps(content).encode()).source
    return source.rows, source.notes


def error_of(text: str | bytes) -> str:
    with pytest.raises(DatasetFileError) as caught:
        read_dataset(text if isinstance(text, bytes) else text.encode())
    return caught.value.message


def test_other_splits_of_a_json_file_are_named() -> None:
    left_out = "only the rows of 'train' are read; left out: "
    assert noted({"test": NEW, "train": records()}) == (24, (f"{left_out}'test' (3 rows)",))
    clinc = {"oos_train": [["x", "oos"]] * 2, "val": [["v", "refund"]], "train": PAIRS}
    assert noted(clinc) == (24, (f"{left_out}'oos_train' (2 rows), 'val' (1 rows)",))
    columns = {"train": {"text": [a for a, _ in PAIRS], "label": [b for _, b in PAIRS]}}
    assert noted({**columns, "test": {"text": ["x"], "label": ["y"]}}) == (24, (f"{left_out}'test'",))
    indented = json.dumps({"train": records(), "test": NEW}, indent=1).encode()
    assert noted(indented) == (24, (f"{left_out}'test' (3 rows)",))
    assert noted({"rasa_nlu_data": {"common_examples": records(), "entity_synonyms": [{"value": "x"}]}}) == (24, ())
    assert "several lists of rows, 'good', 'bad'" in error_of(json.dumps({"good": NEW, "bad": NEW}))


def test_rows_of_other_splits_are_skipped_if_there_are_training_rows() -> None:
    rows = [(*pair, "train") for pair in PAIRS] + [("t", "refund", "Test"), ("v", "", "validation")]
    source = read_dataset(table(rows, ("text", "label", "split")).encode()).source
    assert (source.rows, source.skipped) == (24, 2)
    assert [(row.line, row.reason) for row in source.skipped_rows] == [
        (26, "of the split 'test'"),
        (27, "of the split 'validation'"),
    ]
    only_test = [(*pair, "test") for pair in PAIRS]
    assert read_dataset(table(only_test, ("text", "label", "split")).encode()).source.skipped == 0
    other_meaning = [(*pair, "cutlery") for pair in PAIRS]
    assert read_dataset(table(other_meaning, ("text", "label", "set")).encode()).source.skipped == 0


def test_columns_that_may_be_meant_too_are_named() -> None:
    rows = [(f"subject {number}", text, number % 2, label) for number, (text, label) in enumerate(PAIRS)]
    data = table(rows, ("title", "text", "label", "intent")).encode()
    file = read_dataset(data)
    assert file.source.columns == {"input": "text", "output": "label"}
    assert file.source.notes == (
        "'title' may hold the inputs too, which are read from 'text' (see input_column)",
        "'intent' may hold the outputs too, which are read from 'label' (see output_column)",
    )
    assert read_dataset(data, input_column="title", output_column="intent").source.notes == ()
    named = [(text, LABELS.index(label), label) for text, label in PAIRS]
    assert read_dataset(table(named, ("text", "label", "label_name")).encode()).source.notes == ()


def test_the_sheet_with_the_usual_header_is_read_and_others_are_named() -> None:
    pytest.importorskip("python_calamine")
    examples, remarks = [["text", "label"], ["x", "a"]], [["Export of May"], ["by me"]]
    for sheets in ({"About": remarks, "Tickets": examples}, {"Tickets": examples, "About": remarks}):
        source = read_dataset(workbook(sheets)).source
        assert (source.rows, source.notes) == (1, ("the sheet 'Tickets' is read; left out: 'About'",))


@pytest.mark.parametrize("written", [str, json.dumps, lambda labels: str(labels).replace(",", "")])
def test_labels_that_are_lists_as_text_are_read_or_refused(written: object) -> None:
    assert callable(written)
    one = table([(text, written([label])) for text, label in PAIRS])
    assert [example.output for example in read_dataset(one.encode()).examples] == [label for _, label in PAIRS]
    several = table(
        [(text, written([label, "vip"] if number == 3 else [label])) for number, (text, label) in enumerate(PAIRS)]
    )
    assert "(line 5): keep one label" in error_of(several)
    unfinished = table([*((text, written([label])) for text, label in PAIRS), ("later", "[]")])
    assert read_dataset(unfinished.encode()).source.skipped == 1
    answers = table([(text, written([text, f"{label} {number}"])) for number, (text, label) in enumerate(PAIRS)])
    assert read_dataset(answers.encode()).examples[0].output.startswith("[")


def test_rows_without_annotations_are_skipped_and_counted() -> None:
    doccano = [{"text": text, "label": [label]} for text, label in PAIRS]
    prodigy = [{"text": a, "accept": [b], "options": [], "answer": "accept"} for a, b in PAIRS]
    for rows, unfinished in ((doccano, {"label": []}), (prodigy, {"accept": [], "options": [], "answer": "accept"})):
        source = read_dataset(lines([{"text": "later", **unfinished}, *rows]).encode()).source
        assert (source.rows, source.skipped) == (24, 1)
        assert source.skipped_rows[0].reason == "not annotated"
        multilabel = read_dataset(lines([{"text": "later", **unfinished}, *rows]).encode(), multilabel=True)
        assert (multilabel.examples[0].labels, multilabel.source.skipped) == ((), 0)
    assert "all 1 are skipped (not annotated)" in error_of(lines([{"text": "later", "label": []}]))


def test_exports_with_choices_and_messages_in_parts_are_read() -> None:
    minimal = [
        {"id": 1, "text": a, "choice": b, "annotator": 1, "annotation_id": 3, "created_at": "x", "lead_time": 1.5}
        for a, b in PAIRS
    ]
    parts = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": a}]},
                {"role": "assistant", "content": [{"type": "text", "text": b}]},
            ]
        }
        for a, b in PAIRS
    ]
    for rows in (minimal, parts):
        read = read_dataset(lines(rows).encode()).examples
        assert [(example.input, example.output) for example in read] == PAIRS


def test_rows_within_objects_of_other_programs_are_read() -> None:
    airtable = {"records": [{"id": "rec", "fields": row, "createdTime": "x"} for row in records()]}
    elastic = {"took": 3, "hits": {"total": {"value": 24}, "hits": [{"_id": "1", "_source": row} for row in records()]}}
    gemini = [
        {"contents": [{"role": "user", "parts": [{"text": a}]}, {"role": "model", "parts": [{"text": b}]}]}
        for a, b in PAIRS
    ]
    for content in (airtable, elastic, gemini):
        read = read_dataset(json.dumps(content).encode()).examples
        assert [(example.input, example.output) for example in read] == PAIRS


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (("title", "body", "label"), "'title', 'body' may all hold the inputs; to join the parts of a text, name all"),
        (("text", "status", "type"), "'status', 'type' may all hold the outputs"),
        (("title", "a", "b"), "'title' may hold the inputs, but no name tells the outputs"),
        (("a", "b", "category name"), "'category name' may hold the outputs, but no name tells the inputs"),
        (("“text”", "“label”", "“id”"), "typographic quotes"),
    ],
)
def test_a_header_that_leaves_a_choice_is_refused_with_the_choice(header: tuple[str, ...], fault: str) -> None:
    assert fault in error_of(table([(a, "x", b) for a, b in PAIRS], header))


def test_few_wrong_bytes_in_a_utf8_file_are_named_instead_of_another_charset() -> None:
    data = table([(f"{text} für später", label) for text, label in PAIRS]).encode()
    wrong = data.replace("für".encode(), b"f\xfcr", 2)
    assert "the rest is valid UTF-8: correct 2 places on lines 2, 3" in error_of(wrong)
    other = data.decode().encode("cp1252")
    assert "it looks like Windows-1252" in error_of(other)


def test_labels_that_are_errors_of_a_spreadsheet_are_skipped_and_words_for_missing_labels_are_kept() -> None:
    errors = ("#N/A", "#REF!", "#DIV/0!", " #VALUE! ", "#NAME?")
    words = ("NA", "None", "nan", "-", "null")
    rows = [*PAIRS, *(("x", error) for error in errors), *(("y", word) for word in words)]
    file = read_dataset(table(rows).encode())
    assert (file.source.rows, file.source.skipped) == (29, 5)
    assert file.source.skipped_rows[0].reason == "the label is the spreadsheet error #N/A"
    assert "'NA', 'None' may mean that a label is missing" in label_warnings(["NA", "refund", "None"])[0]
    texts = read_dataset(table([("#N/A", "a"), ("#REF!", "b")]).encode())
    assert texts.source.rows == 2


def test_the_header_of_a_further_file_is_skipped() -> None:
    source = read_dataset("text,label\nx,a\n\ufefftext,label\ny,b\n".encode()).source
    assert (source.rows, source.skipped, source.skipped_rows[0].reason) == (2, 1, "the header again")
