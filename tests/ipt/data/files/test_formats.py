"""Files as other programs write them: each kind is read to the same rows, or named with what to do."""

import csv
import gzip
import io
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import ipt
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.reader import read_dataset
from tests.support.workbooks import workbook

PAIRS = [
    (f"{text} {number}", label)
    for label, text in (
        ("refund", "give me my money"),
        ("shipping", "the parcel is late"),
        ("account", "reset my password"),
    )
    for number in range(3)
]
LABELS = ["refund", "shipping", "account"]


def lines_of(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def table_of(rows: list[list[str]], delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, quoting=quoting).writerows(rows)
    return written.getvalue()


def pairs_of(content: str | bytes, **options: Any) -> list[tuple[str, str]]:
    data = content.encode() if isinstance(content, str) else content
    return [(example.input, example.output) for example in read_dataset(data, **options).examples]


def label_studio(text: str, label: str) -> dict[str, Any]:
    result = {"value": {"choices": [label]}, "from_name": "topic", "to_name": "text", "type": "choices"}
    return {"data": {"text": text}, "annotations": [{"result": [result]}]}


def chat(text: str, label: str) -> dict[str, Any]:
    roles = (("system", "Sort."), ("user", text), ("assistant", label))
    return {"messages": [{"role": role, "content": content} for role, content in roles]}


ROWS = [{"text": text, "label": label} for text, label in PAIRS]
TABLE = table_of([["text", "label"], *map(list, PAIRS)])
PRODIGY = [row | {"answer": "accept"} for row in ROWS] + [row | {"answer": "reject", "label": "refund"} for row in ROWS]
FORMATS: dict[str, tuple[str | bytes, str]] = {
    "sep= line of Excel": ("sep=;\r\n" + table_of([["text", "label"], *map(list, PAIRS)], ";"), "csv"),
    "unnamed columns": (table_of([["", "text", "label", "", ""], *(["1", *pair, "", ""] for pair in PAIRS)]), "csv"),
    "label column first": (table_of([["v1", "v2"], *([label, text] for text, label in PAIRS)]), "csv"),
    "several columns with one usual pair": (
        table_of([["id", "Sentence ", "lang", "Sentiment"], *(["1", text, "en", label] for text, label in PAIRS)]),
        "csv",
    ),
    "one column per label": (
        table_of(
            [["text", *LABELS], *([text, *(str(int(label == each)) for each in LABELS)] for text, label in PAIRS)]
        ),
        "csv (one column per label)",
    ),
    "backslash escapes": (
        'text,label\n"she said \\"no\\", twice",refund\n"a, b",refund\n'.replace("\n", "\r\n"),
        "csv",
    ),
    "JSON array": (json.dumps(ROWS), "json"),
    "pretty-printed array": (json.dumps(ROWS, indent=2), "json"),
    "pretty-printed objects": ("\n".join(json.dumps(row, indent=2) for row in ROWS), "json"),
    "body of the API": (json.dumps({"name": "x", "examples": ROWS}), "json"),
    "rows of a dataset viewer": (json.dumps({"rows": [{"row_idx": 1, "row": row} for row in ROWS]}), "json"),
    "one list per column": (json.dumps({"text": [p[0] for p in PAIRS], "label": [p[1] for p in PAIRS]}), "json"),
    "carriage returns": (lines_of(ROWS).replace("\n", "\r"), "jsonl"),
    "one-element lists": (lines_of([{"text": text, "label": [label]} for text, label in PAIRS]), "jsonl"),
    "Label Studio": (json.dumps([label_studio(*pair) for pair in PAIRS]), "json (Label Studio)"),
    "Label Studio lines": (lines_of([label_studio(*pair) for pair in PAIRS]), "jsonl (Label Studio)"),
    "Label Studio CSV": (
        table_of([["text", "sentiment"], *([text, json.dumps({"choices": [label]})] for text, label in PAIRS)]),
        "csv",
    ),
    "Prodigy": (lines_of(PRODIGY), "jsonl (Prodigy)"),
    "Prodigy choices": (
        lines_of([{"text": text, "accept": [label], "answer": "accept"} for text, label in PAIRS]),
        "jsonl (Prodigy)",
    ),
    "spaCy": (
        lines_of([{"text": text, "cats": {each: float(each == label) for each in LABELS}} for text, label in PAIRS]),
        "jsonl (spaCy)",
    ),
    "spaCy's training data": (
        json.dumps([[text, {"cats": {each: float(each == label) for each in LABELS}}] for text, label in PAIRS]),
        "json (spaCy)",
    ),
    "doccano's older exports": (
        lines_of([{"id": n, "data": text, "label": [label]} for n, (text, label) in enumerate(PAIRS)]),
        "jsonl",
    ),
    "Argilla": (
        lines_of([{"inputs": {"text": text}, "annotation": label, "status": "Validated"} for text, label in PAIRS]),
        "jsonl (Argilla)",
    ),
    "Argilla 2": (
        lines_of(
            [
                {"fields": {"text": text}, "responses": {"label": [{"value": label, "status": "submitted"}]}}
                for text, label in PAIRS
            ]
        ),
        "jsonl (Argilla)",
    ),
    "chat": (lines_of([chat(*pair) for pair in PAIRS]), "jsonl (chat)"),
    "prompt and completion": (
        lines_of([{"prompt": f"{text}\n\n###\n\n", "completion": f" {label}"} for text, label in PAIRS]),
        "jsonl (prompt and completion)",
    ),
    "fastText": ("".join(f"__label__{label} {text}\n" for text, label in PAIRS), "fastText"),
    "Rasa": (
        "version: '3.1'\nnlu:\n"
        + "".join(
            f"- intent: {each}\n  examples: |\n" + "".join(f"    - {text}\n" for text, label in PAIRS if label == each)
            for each in LABELS
        )
        + "- synonym: cash\n  examples: |\n    - dough\n",
        "Rasa",
    ),
    "Rasa Markdown": (
        "".join(
            f"## intent:{each}\n" + "".join(f"- {text}\n" for text, label in PAIRS if label == each) + "\n"
            for each in LABELS
        )
        + "## synonym:cash\n- dough\n",
        "Rasa",
    ),
    "Markdown table": (
        "| text | label |\n| :-- | --- |\n" + "".join(f"| {text} | {label} |\n" for text, label in PAIRS),
        "csv",
    ),
    "gzip": (gzip.compress(TABLE.encode(), mtime=0), "csv"),
    "gzip members": (gzip.compress(TABLE[:20].encode(), mtime=0) + gzip.compress(TABLE[20:].encode()), "csv"),
    "raw quotes in TSV": (
        'text\tlabel\n"never closed\trefund\na 27" screen\trefund\n"so" he said\trefund\n',
        "tsv",
    ),
}
SPECIAL = {
    "backslash escapes": [('she said "no", twice', "refund"), ("a, b", "refund")],
    "raw quotes in TSV": [('"never closed', "refund"), ('a 27" screen', "refund"), ('"so" he said', "refund")],
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("suffix", [None, "csv", "jsonl"])
def test_a_file_of_another_program_is_read(kind: str, suffix: str | None) -> None:
    content, format_name = FORMATS[kind]
    is_json = format_name.startswith("json")
    if suffix == "jsonl" and not is_json:
        pytest.skip("the content of a file with a JSON suffix must be JSON")
    data = content.encode() if isinstance(content, str) else content
    file = read_dataset(data, format=suffix)
    assert [(row.input, row.output) for row in file.examples] == SPECIAL.get(kind, PAIRS)
    assert file.source.format == format_name
    assert file.source.rows == len(file.lines) == len(file.examples)


def test_rejected_annotations_are_counted_and_never_examples() -> None:
    source = read_dataset(FORMATS["Prodigy"][0].encode()).source  # type: ignore[union-attr]
    assert (source.rows, source.skipped) == (9, 9)
    assert [(row.line, row.reason) for row in source.skipped_rows][:1] == [(10, "answered with reject")]
    with pytest.raises(DatasetFileError, match="all 1 are skipped"):
        read_dataset(lines_of([ROWS[0] | {"answer": "ignore"}]).encode())


HEADERS: dict[str, tuple[list[str], int, int]] = {
    "usual": (["text", "label"], 0, 1),
    "case and blanks": ([" Text", "LABEL "], 0, 1),
    "other names and columns": (["id", "utterance", "intent", "note, internal"], 1, 2),
    "empty columns": (["", "sentence", "class", ""], 1, 2),
    "label first": (["category", "message"], 1, 0),
}
ENCODINGS = {"utf-8": None, "utf-8-sig": None, "utf-16": None, "utf-16-le": None, "cp1252": "windows-1252"}
WRITTEN = [("naïve café, £20; one|two", "a"), ('the 27" screen\nis "new"', "b"), ("plain", "a"), ("it’s late", "b")]
VARIANTS = list(itertools.product(",\t;|", ENCODINGS, (csv.QUOTE_MINIMAL, csv.QUOTE_ALL), HEADERS))


@pytest.mark.parametrize("delimiter", ",\t;|", ids=["comma", "tab", "semicolon", "bar"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_way_of_writing_a_table_is_read_to_the_same_rows(delimiter: str, encoding: str) -> None:
    variants = [variant for variant in VARIANTS if variant[:2] == (delimiter, encoding)]
    assert len(VARIANTS) == 200
    for _, _, quoting, header_name in variants:
        header, text_column, label_column = HEADERS[header_name]
        rows = [["x" if name.strip() else "" for name in header] for _ in WRITTEN]
        for row, (text, label) in zip(rows, WRITTEN, strict=True):
            row[text_column], row[label_column] = text, label
        data = table_of([header, *rows], delimiter, quoting).encode(encoding)
        for suffix in ("csv", "tsv", None):
            assert pairs_of(data, format=suffix, charset=ENCODINGS[encoding]) == WRITTEN, (quoting, header_name, suffix)


def test_the_source_says_how_a_file_was_read() -> None:
    data = gzip.compress("Utterance;Intent\nx;y\nz;y\n".encode("utf-16"), mtime=0)
    assert read_dataset(data, format="csv").source.as_json() == {
        "format": "csv",
        "encoding": "utf-16-le",
        "delimiter": "semicolon",
        "compression": "gzip",
        "columns": {"input": "Utterance", "output": "Intent"},
        "rows": 2,
        "skipped": 0,
        "skipped_rows": (),
        "notes": (),
    }


@pytest.mark.parametrize("suffix", ["csv", None])
def test_an_excel_workbook_is_read_under_any_suffix(suffix: str | None) -> None:
    pytest.importorskip("python_calamine")
    data = workbook([["text", "label"], *map(list, PAIRS)])
    file = read_dataset(data, format=suffix)
    assert [(row.input, row.output) for row in file.examples] == PAIRS
    assert (file.source.format, file.source.encoding, file.lines[0]) == ("xlsx", None, 2)


@pytest.mark.parametrize(
    "cells",
    [
        '<row r="1048576"><c r="A1048576"><v>1</v></c></row>',
        '<row r="9"><c r="XFD9"><v>1</v></c></row>',
        '<row r="9">' + '<c r="A9" t="s"><v>0</v></c>' * 2_000 + "</row>",
        '<row r="9">' + '<c r="A9" t="s"><v>&#48;</v></c>' * 2_000 + "</row>",
    ],
    ids=["far row", "far column", "shared text", "hidden index"],
)
def test_a_workbook_that_would_fill_the_memory_is_rejected(cells: str) -> None:
    pytest.importorskip("python_calamine")
    with pytest.raises(DatasetFileError, match=r"more than|columns|damaged"):
        read_dataset(workbook([["text", "label"], ["x", "y"]], shared=cells))


def test_a_parquet_file_is_read_under_any_suffix(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": [p[0] for p in PAIRS], "label": [p[1] for p in PAIRS]}), tmp_path / "a.csv")
    file = ipt.read_dataset_file(tmp_path / "a.csv")
    assert [(row.input, row.output) for row in file.examples] == PAIRS
    assert file.source.format == "parquet"
    numbers = pa.table({"text": [p[0] for p in PAIRS], "label": [LABELS.index(p[1]) for p in PAIRS], "index": range(9)})
    features = {"label": {"names": LABELS, "_type": "ClassLabel"}}
    named = numbers.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for table, labels in ((numbers, ["0", "1", "2"]), (named, LABELS)):
        parquet.write_table(table, tmp_path / "labels.parquet")
        examples = ipt.read_dataset_file(tmp_path / "labels.parquet").examples
        assert [example.output for example in examples] == [labels[LABELS.index(label)] for _, label in PAIRS]
    parquet.write_table(pa.table({"text": ["x" * 100] * 1000, "label": ["y"] * 1000}), tmp_path / "big")
    with pytest.raises(DatasetFileError, match="more than 50,000 bytes"):
        read_dataset((tmp_path / "big").read_bytes(), max_bytes=50_000)


def archive_of(*names: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name in names:
            archive.writestr(name, TABLE)
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "the file is empty"),
        (
            gzip.compress(b"text,label\n" + b"x,y\n" * 10_000, mtime=0),
            {"max_bytes": 5_000},
            "decompressed, .* more than 5,000 bytes",
        ),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), {}, "compressed twice"),
        (gzip.compress(TABLE.encode(), mtime=0)[:-9], {}, "cut off"),
        (b"\x1f\x8bgarbage", {}, "gzip file is damaged"),
        (archive_of("data.csv"), {}, "a ZIP archive: unpack it"),
        (archive_of("mimetype", "content.xml"), {}, "an OpenDocument file: save the table as XLSX"),
        (archive_of("xl/none.xml"), {}, "damaged|does not read"),
        (b"PK\x03\x04", {}, "damaged"),
        (b"PAR1" + bytes(range(50)), {}, "the Parquet file is damaged|does not read"),
        (b"%PDF-1.7 ...", {}, "a PDF document"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 99, {}, "before 2007"),
        (b"<!DOCTYPE html><html>", {}, "a web page"),
        ("text,label\n£20 – café,a\n".encode("cp1252"), {}, "looks like Windows-1252: send charset=windows-1252"),
        (TABLE.encode(), {"charset": "idna"}, "unknown charset"),
        (TABLE.encode(), {"charset": "\0"}, "unknown charset"),
        (TABLE.replace("text,label\r\n", "").encode(), {}, "no header\\?"),
        (TABLE.replace("text,label", "asked,team").encode(), {}, "its columns are 'asked', 'team'"),
        (
            TABLE.replace("text,label", "asked,team").encode(),
            {"format": "jsonl"},
            "not JSON: .* for CSV, send format=csv",
        ),
        (b'// mine\n{"text": "x", "label": "y"}\n', {"format": "jsonl"}, "not JSON: "),
        (b"only some words\nand more words\n", {}, "unknown format"),
        (b'{"text": "x", "label": "y"},\n', {}, "a comma after the object"),
        (b'{"text": "x", "label": "y",}\n', {}, "a comma before the closing bracket"),
        (b"{'text': 'x', 'label': 'y'}\n", {}, "single quotes"),
        (b'[{"text": "x", "label": "y"},]\n', {}, "a comma before the end of the array"),
        (b'[{"text": "x", "label": "y"}\n', {}, "the array does not end: is the file cut off"),
        (b'[{"text": "x", "label": "y"} {"text"', {}, "expected a comma or the end of the array"),
        (b'[{"text": "x", "label": "y"}, {"text": "z', {}, "ends within a value: is it cut off"),
        (b'{"text": "x", "label": "y"}\n{"text": "z", "la', {}, "ends within a value: is it cut off"),
        (b"[billing]\nfirst = I was charged\n", {}, "looks like INI or TOML"),
        (b'[{"text": "x", "label": "y"}] x', {}, "text after the end of the array"),
        (b"__label__a x\nno label\n", {}, "a line of fastText"),
        (b"__label__a __label__b x\n", {}, "several labels"),
        (json.dumps([{str(n): "" for n in range(1001)}]).encode(), {}, "more than 1000 columns"),
    ],
)
def test_an_unreadable_file_is_named_with_what_to_do(content: bytes, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetFileError, match=words):
        read_dataset(content, **options)


def test_errors_of_the_python_reader_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,\n")
    with pytest.raises(ipt.DatasetError, match=r"a\.csv:2: output: 1 row has no label"):
        ipt.read_dataset_file(tmp_path / "a.csv")
    with pytest.raises(ipt.DatasetError, match="No such file"):
        ipt.read_dataset_file(tmp_path / "none.csv")
