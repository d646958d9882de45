"""Further ways in which people write examples: each is read to the same rows, or to an error that says what to do."""

import io
import json
import zipfile
from typing import Any

import pytest

from ipt.data.files.errors import DatasetFileError
from ipt.data.files.reader import format_of, read_dataset
from tests.support.workbooks import workbook
from tests.support.written_files import LABELS, PAIRS, TEXTS, lines, records, table, tar

GROUPED = [(text, label) for label in LABELS for text in TEXTS[label]]
WRAPPED = "".join('"' + line.replace('"', '""') + '"\n' for line in table(PAIRS).splitlines())
RASA = "".join(
    f"- intent: {label}\n  examples: |\n" + "".join(f"    - {t}\n" for t in TEXTS[label]) for label in LABELS
)


def marks(mark: object, blank: object, names: list[str] = LABELS, text: str = "text") -> str:
    return table([(a, *(mark if b == label else blank for label in LABELS)) for a, b in PAIRS], (text, *names))


def annotated(key: str, label: str, **more: object) -> dict[str, object]:
    return {key: [{"result": [{"value": {"choices": [label]}}]}], **more}


ROWS: dict[str, tuple[str, str]] = {
    # tables
    "sep= with the delimiters of Excel.csv": ("sep=,,\n" + table(PAIRS), "csv"),
    "blank line and sep = .csv": ("\nsep = ;\n" + table(PAIRS, delimiter=";"), "csv"),
    "carets.txt": (table(PAIRS, delimiter="^"), "csv"),
    "double colons.txt": ("".join(f"{a}::{b}\n" for a, b in [("text", "label"), *PAIRS]), "csv"),
    "broken bars.txt": ("".join(f"{a}¦{b}\n" for a, b in [("text", "label"), *PAIRS]), "csv"),
    "rows in quotes.csv": (WRAPPED, "csv"),
    "single quotes.csv": ("".join(f"'{a}','{b}'\n" for a, b in [("text", "label"), *PAIRS]), "csv"),
    "single quotes below the header.csv": ("text,label\n" + "".join(f"'{a}','{b}'\n" for a, b in PAIRS), "csv"),
    "blank after the comma.csv": ("".join(f'"{b}", "{a}"\n' for a, b in [("text", "label"), *PAIRS]), "csv"),
    "comment above the header.csv": ("# exported, by me\n# today\n" + table(PAIRS), "csv"),
    "title above the header.csv": ("My tickets,\n,\n" + table(PAIRS), "csv"),
    "table with a suffix of JSON.json": (table(PAIRS, delimiter=";"), "csv"),
    "two byte order marks.csv": ("\ufeff\ufeff" + table(PAIRS), "csv"),
    "names next to numbers.csv": (
        table([(a, LABELS.index(b), b) for a, b in PAIRS], ("text", "label", "label_text")),
        "csv",
    ),
    "lists of Python.csv": (table([(a, f"['{b}']") for a, b in PAIRS]), "csv"),
    "lists of JSON.csv": (table([(a, json.dumps([b])) for a, b in PAIRS]), "csv"),
    "labels of fastText.csv": (table([(a, f"__label__{b}") for a, b in PAIRS]), "csv"),
    "answers of annotators.csv": (
        table([(*p, "accept") for p in PAIRS] + [("no", "refund", "reject")], ("text", "label", "answer")),
        "csv",
    ),
    # one column per label
    "x or nothing.csv": (marks("x", ""), "csv (one column per label)"),
    "TRUE or FALSE.csv": (marks("TRUE", "FALSE", text="comment_text"), "csv (one column per label)"),
    "prefixed.csv": (marks(1, 0, [f"label_{label}" for label in LABELS]), "csv (one column per label)"),
    "marks and a fold.csv": (
        table(
            [(n % 2, a, *(int(b == c) for c in LABELS)) for n, (a, b) in enumerate(PAIRS)], ("fold", "text", *LABELS)
        ),
        "csv (one column per label)",
    ),
    "marks.jsonl": (
        lines({"text": a, **{label: b == label for label in LABELS}} for a, b in PAIRS),
        "jsonl (one column per label)",
    ),
    # JSON
    "pairs.json": (json.dumps(PAIRS), "json"),
    "pairs.jsonl": (lines(PAIRS), "jsonl"),
    "lists below a header.json": (json.dumps([["Label", "Text"], *([b, a] for a, b in PAIRS)]), "json"),
    "splits of pairs.json": (json.dumps({"train": PAIRS, "val": [["x", "y"]]}), "json"),
    "columns apart.json": (json.dumps({"columns": ["text", "label"], "index": [0], "data": PAIRS}), "json"),
    "object per row.json": (json.dumps({str(n): row for n, row in enumerate(records())}), "json"),
    "list of another name.json": (json.dumps({"count": 24, "tickets": records()}), "json"),
    "utterances.json": (
        json.dumps({"intents": [{"name": b} for b in LABELS], "utterances": records(label="intent", entities=[])}),
        "json",
    ),
    "labels with names.json": (json.dumps([{"text": a, "labels": [{"name": b, "id": 1}]} for a, b in PAIRS]), "json"),
    "texts to labels.json": (json.dumps(dict(PAIRS)), "jsonl (texts by label)"),
    "instructions.json": (
        json.dumps([{"instruction": a, "input": "", "output": b} for a, b in PAIRS]),
        "json (instructions)",
    ),
    "one instruction.json": (json.dumps([{"instruction": "Sort.", "input": a, "output": b} for a, b in PAIRS]), "json"),
    "older chats.jsonl": (
        lines({"prompt": f"\n\nHuman: {a}\n\nAssistant:", "completion": f" {b}"} for a, b in PAIRS),
        "jsonl (prompt and completion)",
    ),
    "older chats with instructions.jsonl": (
        lines({"prompt": f"Sort.\n\nHuman: {a}\n\nAssistant: ", "completion": f" {b}\n\nHuman:"} for a, b in PAIRS),
        "jsonl (prompt and completion)",
    ),
    "prompts and completions with separators.jsonl": (
        lines({"prompt": f"{a} ->", "completion": f" {b} ###"} for a, b in PAIRS),
        "jsonl (prompt and completion)",
    ),
    "instructions with a context.jsonl": (
        lines({"instruction": a, "context": "", "response": b, "category": "x"} for a, b in PAIRS),
        "jsonl (instructions)",
    ),
    "files put together.jsonl": ("".join("\ufeff" + line + "\n" for line in lines(records()).splitlines()), "jsonl"),
    "result within an answer.json": (json.dumps({"status": "ok", "result": {"items": records()}}), "json"),
    "properties of GeoJSON.json": (
        json.dumps({"features": [{"type": "Feature", "properties": row} for row in records()]}),
        "json",
    ),
    # annotation tools
    "Label Studio, older.json": (
        json.dumps([annotated("completions", b, data={"text": a}) for a, b in PAIRS]),
        "json (Label Studio)",
    ),
    "Label Studio, own key.json": (
        json.dumps([annotated("annotations", b, data={"frage": a, "nr": 7}) for a, b in PAIRS]),
        "json (Label Studio)",
    ),
    "Prodigy's options.jsonl": (
        lines(
            {"text": a, "accept": [b[0]], "answer": "accept", "options": [{"id": c[0], "text": c} for c in LABELS]}
            for a, b in PAIRS
        ),
        "jsonl (Prodigy)",
    ),
    "Argilla's lists.json": (
        json.dumps([{"fields": {"text": a}, "responses": {"label": [{"value": [b]}]}} for a, b in PAIRS]),
        "json (Argilla)",
    ),
    "Argilla on a hub.jsonl": (
        lines({"text": a, "label.responses": [b], "label.suggestion": "x", "status": "completed"} for a, b in PAIRS),
        "jsonl (Argilla)",
    ),
    "spaCy 2.json": (
        json.dumps(
            [
                {"paragraphs": [{"raw": a, "cats": [{"label": c, "value": int(b == c)} for c in LABELS]}]}
                for a, b in PAIRS
            ]
        ),
        "json (spaCy)",
    ),
    "doccano's ids.jsonl": (
        lines({"text": a, "annotations": [{"label": b, "user": 1}]} for a, b in PAIRS),
        "jsonl (doccano)",
    ),
    "Labelbox.jsonl": (
        lines(
            {
                "data_row": {"id": n, "row_data": a},
                "projects": {"p": {"labels": [{"annotations": {"classifications": [{"radio_answer": {"name": b}}]}}]}},
            }
            for n, (a, b) in enumerate(PAIRS)
        ),
        "jsonl (Labelbox)",
    ),
    "SageMaker Ground Truth.manifest": (
        lines({"source": a, "team": LABELS.index(b), "team-metadata": {"class-name": b}} for a, b in PAIRS),
        "jsonl (SageMaker Ground Truth)",
    ),
    "Azure's language understanding.json": (
        json.dumps(
            {
                "metadata": {"projectKind": "Conversation"},
                "assets": {
                    "intents": [{"category": b} for b in LABELS],
                    "entities": [],
                    "utterances": [{"text": a, "intent": b, "entities": [], "dataset": "Train"} for a, b in PAIRS],
                },
            }
        ),
        "json",
    ),
    "fastText with tabs.txt": ("".join(f"__label__{b}\t{a}\n" for a, b in PAIRS), "fastText"),
    "fastText, label last.txt": ("".join(f"{a} __label__{b}\n" for a, b in PAIRS), "fastText"),
}
BY_LABEL: dict[str, tuple[str, str]] = {
    "by label.json": (json.dumps(TEXTS), "jsonl (texts by label)"),
    "by label, pretty.json": (json.dumps(TEXTS, indent=1), "json (texts by label)"),
    "by label, wrapped.json": (json.dumps({"intents": TEXTS}), "json (texts by label)"),
    "an object per label.jsonl": (lines({label: TEXTS[label]} for label in LABELS), "jsonl (texts by label)"),
    "intents of a chatbot.json": (
        json.dumps({"intents": [{"tag": b, "patterns": TEXTS[b], "responses": ["Well."]} for b in LABELS]}),
        "json (texts by label)",
    ),
    "Watson.json": (
        json.dumps({"intents": [{"intent": b, "examples": [{"text": t} for t in TEXTS[b]]} for b in LABELS]}),
        "json (texts by label)",
    ),
    "Snips.json": (
        json.dumps(
            {
                "intents": {
                    b: {"utterances": [{"data": [{"text": t[:9]}, {"text": t[9:]}]} for t in TEXTS[b]]} for b in LABELS
                }
            }
        ),
        "json (texts by label)",
    ),
    "Rasa with comments.yml": (
        'version: "3.1"\nnlu:\n' + RASA.replace("intent: refund", "intent: refund  # money"),
        "Rasa",
    ),
    "Rasa, intents only.yml": (RASA, "Rasa"),
    "Rasa with metadata.yml": (
        "nlu:\n"
        + "".join(
            f"- intent: {b}\n  examples:\n"
            + "".join(f"  - text: |\n      {t}\n    metadata:\n      from: me\n" for t in TEXTS[b])
            for b in LABELS
        ),
        "Rasa",
    ),
    "Rasa Markdown with comments.md": (
        "".join(f"## intent:{b} <!-- x -->\n" + "".join(f"- {t}\n" for t in TEXTS[b]) for b in LABELS),
        "Rasa",
    ),
}


@pytest.mark.parametrize("name", [*ROWS, *BY_LABEL])
def test_the_file_is_read_to_the_same_rows(name: str) -> None:
    content, kind = (ROWS | BY_LABEL)[name]
    file = read_dataset(content.encode(), format=format_of(name))
    assert [(row.input, row.output) for row in file.examples] == (PAIRS if name in ROWS else GROUPED)
    assert file.source.format == kind


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("texts", "labels"),
        ("comment_text", "sentiment"),
        ('"text"', "label"),
        ("#text", "label*"),
        ("input_text", "target_text"),
        ("Sample Utterance", "Intent Name"),
        ("Text (required)", "Label (required)"),
        ("customerMessage", "intent_name"),
        ("sentence", "gold_label"),
        ("Frage", "Kategorie"),
        ("texte", "étiquette"),
        ("文本", "标签"),
        ("reviews.text", "reviews.rating"),
        ("dialogue", "summary"),
        ("Text", "Classification Topic"),
        ("النص", "التصنيف"),
        ("텍스트", "카테고리"),
    ],
)
def test_usual_names_are_found_in_other_forms(text: str, label: str) -> None:
    file = read_dataset(table([(n, b, a) for n, (a, b) in enumerate(PAIRS)], ("id", label, text)).encode())
    assert [(row.input, row.output) for row in file.examples] == PAIRS
    assert file.source.columns == {"input": text, "output": label}


@pytest.mark.parametrize(
    "header", [("text", "comment"), ("title", "body", "label"), ("text_id", "label"), ("id", "tag")]
)
def test_a_header_that_leaves_a_choice_is_refused(header: tuple[str, ...]) -> None:
    with pytest.raises(DatasetFileError, match=r"no two columns have usual names.*its columns are"):
        read_dataset(table([["x"] * len(header)], header).encode())


ANNOTATED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "Label Studio": (annotated("annotations", "a", data={"text": "x"}), {"data": {"text": "y"}}, "not annotated"),
    "Prodigy": ({"text": "x", "label": "a", "answer": "accept"}, {"text": "y", "label": "a"}, "not answered"),
    "Argilla": ({"text": "x", "annotation": "a"}, {"text": "y"}, "not annotated"),
    "doccano": ({"text": "x", "annotations": [{"label": "a"}]}, {"text": "y"}, "not annotated"),
    "chat": (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]},
        {"messages": None},
        "the chat does not end",
    ),
    "plain rows": (
        {"text": "x", "label": "a"},
        {"text": "y", "label": "a", "answer": "reject"},
        "answered with reject",
    ),
}


@pytest.mark.parametrize("kind", ANNOTATED)
def test_a_record_far_below_that_is_not_annotated_is_skipped(kind: str) -> None:
    record, other, reason = ANNOTATED[kind]
    source = read_dataset(lines([*[record] * 60, other]).encode()).source
    assert (source.rows, source.skipped) == (60, 1)
    assert source.skipped_rows[0].line == 61
    assert source.skipped_rows[0].reason.startswith(reason)


def test_outputs_to_write_are_not_taken_for_wrapped_labels() -> None:
    outputs = ['["a", "b"]', '["a"]', '{"name": "x", "age": 3}']
    read = read_dataset(table([(f"text {n}", output) for n, output in enumerate(outputs)]).encode())
    assert [example.output for example in read.examples] == outputs
    with pytest.raises(DatasetFileError, match=r"'label\.name', 'label\.value' may hold the outputs"):
        read_dataset(lines(records([("x", {"name": "Ann", "value": 3})])).encode())  # type: ignore[list-item]


def test_answers_of_people_are_not_taken_for_prodigys() -> None:
    rows = [{"text": "what to do with spam?", "answer": "ignore"}, {"text": "how do I say yes?", "answer": "say yes"}]
    read = read_dataset(lines(rows).encode())
    assert [example.output for example in read.examples] == ["ignore", "say yes"]


def test_notes_say_what_was_left_out() -> None:
    titled = read_dataset(b"My tickets\n\ntext,label\nx,a\n")
    assert (titled.source.notes, titled.lines) == (("lines above the header are left out: 2",), [4])
    declared = read_dataset("text,label\ncafé,a\n".encode(), charset="latin-1")
    assert declared.source.notes == ("the file is valid UTF-8, but was read as iso8859-1, the declared charset",)


def test_rows_on_one_line_are_named_by_their_numbers() -> None:
    with pytest.raises(DatasetFileError, match=r"2 rows have no label \(rows 2, 3\)"):
        read_dataset(json.dumps([{"text": "x", "label": "a"}, {"text": "y"}, {"text": "z", "label": None}]).encode())


def archive(*names: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return written.getvalue()


BINARY = bytes(range(256))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar("w"), "a tar archive"),
        (tar("w:gz"), "a tar archive"),
        (archive("word/document.xml"), "a Word document"),
        (archive("ppt/presentation.xml"), "a PowerPoint presentation"),
        (archive("xl/workbook.bin"), "a binary Excel workbook"),
        (archive("Index/Document.iwa"), "Numbers or Pages"),
        (b"\xd0\xcf\x11\xe0" + BINARY, "with a password"),
        (b"ORC" + BINARY, "an ORC file"),
        (b"Obj\x01" + BINARY, "an Avro file"),
        (b"\x89HDF\r\n" + BINARY, "an HDF5 file"),
        (b"\x80\x02}" + BINARY, "a Python pickle"),
        (b"\xff\xd8\xff\xe0" + BINARY, "an image"),
        (b"\x78\x9c" + BINARY, "as spaCy's files"),
        (b"export const data = [{}]", "JavaScript: save the array"),
        (b"- text: x\n  label: y\n", "YAML"),
        (b"@relation x\n@attribute text string\n", "ARFF"),
        (b"DESC:manner How did it start ?\nHUM:ind Who was first ?\n", "TREC, a label before a text"),
        (b"-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\n", "CoNLL, which labels words"),
        (b"EU B-ORG\nrejects O\n", "CoNLL, which labels words"),
        (b"# sent_id = 1\n1\tThey\tthey\tPRON\tPRP\n", "CoNLL, which labels words"),
        (b"+1 1:0.43 3:0.12\n-1 2:0.1\n", "LibSVM, which has numbers"),
        (b"From ann@example.com Mon Jan 1\nSubject: Hi\n\nHello\n", "a mailbox: save the text and the label"),
        (b"Received: from x by y\nSubject: Hi\n\nHello, there\n", "an e-mail"),
        (b"INSERT INTO t VALUES ('x', 'a');\n", "SQL: export the table"),
        (b'rows = [("x", "a"), ("y", "b")]\n', "Python: write its rows"),
        (b"refund:\n  - give me money\n", "YAML"),
        (b'{"text": "x", "label": "a"}{"text": "y", "label": "b"}', "two objects on a line: put each"),
        (b'{"text": "x", "label": None}', "None, True or False, as Python prints them"),
        (b"<table><tr><td>text</td></tr></table>", "a web page or XML"),
        (b"<!-- mine -->\n<p>Hi</p>", "a web page or XML"),
        (b"<data>\n  <row/>\n</data>\n", "a web page or XML"),
        (
            archive("aclImdb/train/pos/0_9.txt", "aclImdb/train/neg/0_1.txt"),
            "a ZIP archive of 2 texts: save them as one",
        ),
        (b'{"text": "x", "label": "y"}\n// the end\n', "a comment, which JSON does not have"),
        (b'{"text": "x", "label": "y"} # mine\n{"text": "x", "label": "y"}\n', "a comment, which JSON does not have"),
        (b"text,label,label\nx,a,b\n", "columns 2 and 3 .* the same name: rename or remove"),
        (b"text,label\nx\0y,a\n", "a NUL character is not allowed in text: remove it"),
        (lines([{"conversations": [{"id": 1, "body": "x"}, {"id": 2, "body": "y"}]}] * 2).encode(), "'conversations'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # compressed contents have the time in them
)
def test_another_kind_of_file_is_named_with_what_to_do(content: bytes, words: str) -> None:
    with pytest.raises(DatasetFileError, match=words):
        read_dataset(content)


def test_columns_may_start_as_binary_files_do() -> None:
    for name in ("ORCID", "PARENT", "BZh", "GIF89a"):
        assert read_dataset(table([("1", "x", "a")], (name, "text", "label")).encode()).source.rows == 1


def test_a_title_above_the_table_of_a_workbook_is_left_out() -> None:
    pytest.importorskip("python_calamine")
    cells = [["My tickets"], ["text", "label"], ["x", "a"]]
    source = read_dataset(workbook(cells)).source
    assert (source.rows, source.notes) == (1, ("the sheet 's' is read", "rows above the header are left out: 1"))
