"""Dataset files: accepted formats, error messages with their position, and arbitrary bytes."""

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ipt.data.examples import VISIBLE_TEXT
from ipt.data.files.columns import ColumnsError
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.json_records import load_json
from ipt.data.files.reader import FORMATS, format_of, read_dataset

Row = dict[str, str]
SECRET = "a text that only its tenant may see"


# All characters of UTF-8 except NUL, which is rejected.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
TRICKY_TEXTS = st.text(st.sampled_from("\",\t\r\n\\ '{}:é\u2028\x85\x1c😀")) | TEXTS
VISIBLE_TEXTS = TRICKY_TEXTS.filter(VISIBLE_TEXT.search)


def rows_of(content: str | bytes, file_format: str = "jsonl", **columns: str) -> list[Row]:
    data = content.encode() if isinstance(content, str) else content
    return [example(row.input, row.output) for row in read_dataset(data, format=file_format, **columns).examples]


def example(text: str, label: str) -> Row:
    return {"input": text, "output": label}


@pytest.mark.parametrize(
    ("file_format", "content", "expected"),
    [
        ("jsonl", '{"input": "x", "output": "y", "id": 7}\n\n \t\r\n{"input": "é", "output": "z"}', ["xy", "éz"]),
        ("ndjson", '{"text": "x", "label": "y"}\r\n{"text": "a", "label": "b"}\r\n', ["xy", "ab"]),
        ("jsonl", '{"input": "x", "output": "y", "more": {"a": [1, null, 1e999]}}', ["xy"]),
        ("jsonl", '{"input": "x", "output": "y", "n": ' + "1" * 10_000 + "}", ["xy"]),
        ("jsonl", '{"input": "x\u2028", "output": "y\x85"}\n', ["x\u2028y\x85"]),
        ("jsonl", '[{"input": "x",\n"output": "y"}]', ["xy"]),
        ("jsonl", '{"input": "x", "output": 3}\n{"input": "x", "output": 3.50}', ["x3", "x3.50"]),
        ("jsonl", '{"input": "x", "output": true}\n{"input": ["x"], "output": false}', ["xtrue", "xfalse"]),
        ("jsonl", '{"input": "\\ud83d\\ude00", "output": "y"}', ["😀y"]),
        ("jsonl", '\ufeff{"input": "x", "output": "y"}', ["xy"]),
        ("csv", "text,label\nx,y\n", ["xy"]),
        ("csv", "\r\n\n  \ntext,label\n\n\nx,y\r\n \n\n", ["xy"]),
        ("csv", "text,label\rx,y\r", ["xy"]),
        ("csv", '\ufefftext,label\r\n"one, ""two""\r\nthree",a\r\nfour,b', ['one, "two"\r\nthreea', "fourb"]),
        ("csv", "id,output,input\n1,y,x\n", ["xy"]),
        ("csv", "text,label,input,output\n1,2,x,y\n", ["xy"]),
        ("csv", "text,label\n,\nx,y\n", ["xy"]),
        ("csv", "\n\ntext;label\nx;y\n", ["xy"]),
        ("csv", "text\tlabel\nx, or so\ty\n", ["x, or soy"]),
        ("tsv", "text,label\nx,y\n", ["xy"]),
        ("csv", "text,label\nx,y\n".encode("utf-16-le"), ["xy"]),
        ("csv", "text,label,a;b\nx;,y|,\n", ["x;y|"]),
        ("csv", '"text","label","a;\nb"\nx,y,z\n', ["xy"]),
        ("csv", '"a;\nb","text","label"\nz,x,y\n', ["xy"]),
        ("tsv", 'text\tlabel\nx, 5" \ty\n', ['x, 5" y']),
        ("csv", "text,label\nü,y\n".encode("utf-16"), ["üy"]),
        ("tsv", "\ufefftext\tlabel\n😀\ty\n".encode("utf-16-be"), ["😀y"]),
        ("csv", "\ufefftext,label\nü,y\n".encode("utf-16-le"), ["üy"]),
        ("csv", "text,label\nü,y\n".encode("utf-32"), ["üy"]),
        ("jsonl", '\ufeff{"input": "x", "output": "y"}'.encode("utf-32-be"), ["xy"]),
    ],
)
def test_valid_files_are_read(file_format: str, content: str | bytes, expected: list[str]) -> None:
    assert [row["input"] + row["output"] for row in rows_of(content, file_format)] == expected


def test_a_name_of_the_header_is_compared_with_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    comparisons = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return str.__eq__(self, other)

    class Reader:
        line_num = 0

        def __init__(self) -> None:
            names = [Name(number) for number in range(998)]
            self.rows = iter(([*names, Name("text"), Name("label")], ["x"] * 1000))

        def __iter__(self) -> Iterator[list[str]]:
            return self.rows

        def __next__(self) -> list[str]:
            return next(self.rows)

    monkeypatch.setattr(csv, "reader", lambda *_, **__: Reader())
    assert rows_of("text,label\nx,x\n", "csv") == [example("x", "x")]
    assert comparisons < 5 * 1000


def test_columns_named_by_the_caller_come_before_the_default_columns() -> None:
    content = "input,output,team\nx,y,z\n"
    assert rows_of(content, "csv", output_column="team") == [example("x", "z")]
    assert rows_of(content, "csv", input_column="team", output_column="input") == [example("z", "x")]
    assert rows_of("text,label,team\nx,y,z\n", "csv", output_column="team") == [example("x", "z")]
    assert rows_of(",output\nx,y\n", "csv", input_column="") == [example("x", "y")]


@pytest.mark.parametrize(
    ("file_format", "content", "line", "field", "words"),
    [
        ("jsonl", "", None, None, "no rows"),
        ("jsonl", "\n \n", None, None, "no rows"),
        ("csv", "", None, None, "no rows"),
        ("csv", "text,label\n", None, None, "no rows"),
        ("jsonl", '{"input": "x", "output": "y"}\n\n{"input": "x"\n', 3, None, "not JSON"),
        ("jsonl", '{"input": "x", "output": "y"}{"input": "x", "output": "y"}', 1, None, "two objects on a line"),
        ("jsonl", '{"input": "x", "output": "y",}', 1, None, "not JSON"),
        ("jsonl", "{'input': 'x', 'output': 'y'}", 1, None, "not JSON"),
        ("jsonl", '{"input": "x\n", "output": "y"}', 1, None, "not JSON"),
        ("jsonl", '\n["x", "y", "z"]\n', 2, None, "expected a JSON object"),
        ("jsonl", '{"input": "x", "output": "y", "n": NaN}', 1, None, "NaN"),
        ("jsonl", '{"input": "x", "output": -Infinity}', 1, None, "Infinity"),
        ("jsonl", '{"input": "x", "output": "y", "input": "z"}', 1, None, "the same key twice"),
        ("jsonl", '{"input": "x", "output": "y", "more": {"a": 1, "\\u0061": 1}}', 1, None, "the same key twice"),
        ("jsonl", "[" * 100_000, 1, None, "nested too deeply"),
        ("jsonl", '{"a":' * 100_000, 1, None, "nested too deeply"),
        ("jsonl", '\n{"more": [' + "[]," * 200_000 + "[]]}", 2, None, "more than 100,000 values"),
        ("jsonl", '{"input": "x", "output": "y"}\n{"input": "x"}\n', 2, "output", "1 row has no label (line 2)"),
        ("jsonl", '{"input": null, "output": "y"}', 1, "input", "1 row has no text (line 1)"),
        ("csv", "text,label\nx,\nx,y\nz, \n,y\n", 2, "output", "2 rows have no label (lines 2, 4); 1 row has no text"),
        ("jsonl", '{"input": "x", "output": ["y", "z"]}', 1, "output", "1 row has several labels, which only tasks"),
        ("jsonl", '{"input": ["x", "z"], "output": "y"}', 1, "input", "got a list"),
        ("jsonl", '{"input": {}, "output": "y"}', 1, "input", "got an object"),
        ("jsonl", '{"input": "\\ud800", "output": "y"}', 1, "input", "lone surrogate"),
        ("jsonl", '{"input": "x", "output": "\\u0000"}', 1, "output", "NUL"),
        ("jsonl", '{"input": "x", "output": "y"}\n{"input": "\0", "output": "y"}', 2, None, "NUL"),
        ("jsonl", b'{"input": "x", "output": "y"}\n{"input": "\xed\xa0\x80"}', 2, None, "byte 0xed at offset 41"),
        ("csv", "text,label\nx,y\nx,y,z\n", 3, None, "more cells than the header's 2"),
        ("csv", 'text,label\n"x\n\n",y\nx\n', 5, "output", "no label (line 5)"),
        ("csv", 'text,label\n\n"x\ny",z,1\n', 3, None, "more cells"),
        ("csv", 'text,label\n"x" y,z\n', 2, None, "not CSV"),
        ("csv", 'text,label\n\n"x,y\nx,y\n', 3, None, "unexpected end of data"),
        ("csv", '"asked, or so";"label"\n"x";"y"\n', None, None, "no two columns have usual names"),
        ("csv", "\ntext,label,id,text\nx,y,1,z\n", 2, None, "columns 1 and 4"),
        ("csv", "\na" + "," * 1000 + "\n", 2, None, "the header has 1001 columns, at most 1000 are supported"),
        ("tsv", "a" + "\t" * 60_000 + "\n", 1, None, "60001 columns, at most 1000"),
        ("csv", "text,label\nx\0,y\n", 2, None, "NUL"),
        ("csv", b"text,label\n\xff\xfe,z\n", 2, None, "not UTF-8 text: byte 0xff at offset 11"),
        ("csv", "text,label\nü,y\n".encode("latin-1"), 2, None, "not UTF-8 text: byte 0xfc at offset 11"),
        ("csv", "text,label\nx,y\n".encode("utf-16")[:-1], 2, None, "not UTF-16-LE text: byte 0x0a at offset 30"),
        ("csv", b"\xef\xbb\xbftext,label\n\xff", 2, None, "byte 0xff at offset 14"),
    ],
)
def test_errors_say_what_is_wrong_and_where(
    file_format: str, content: str | bytes, line: int | None, field: str | None, words: str
) -> None:
    with pytest.raises(DatasetFileError) as caught:
        rows_of(content, file_format)
    assert (caught.value.line, caught.value.field) == (line, field)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_texts_of_any_length_are_read() -> None:
    long = "x" * 200_000
    assert rows_of(f'text,label,notes\n{long},y,"{long}"\n', "csv") == [example(long, "y")]


def test_one_column_cannot_be_both_inputs_and_outputs() -> None:
    for content, columns in (
        ("text,label\nx,y\n", {"input_column": "text", "output_column": "text"}),
        ("text,label\nx,y\n", {"input_column": "label"}),
        ("input,output\nx,y\n", {"output_column": "input"}),
    ):
        with pytest.raises(ColumnsError, match=r"the same column.*: name two columns"):
            rows_of(content, "csv", **columns)
    assert rows_of("output,label\nx,y\n", "csv", input_column="output") == [example("x", "y")]


def test_each_row_comes_with_the_line_it_starts_on() -> None:
    file = read_dataset(b'\ntext,label\n"a\r\nb\rc\nd",x\n\n"e\n",y\nf,z', format="csv")
    assert list(zip(file.lines, [row.output for row in file.examples], strict=True)) == [(3, "x"), (8, "y"), (10, "z")]


@pytest.mark.parametrize("columns", [{}, {"input_column": "team"}, {"input_column": "a", "output_column": "team"}])
def test_missing_columns_are_reported(columns: dict[str, str]) -> None:
    for file_format, content in (("csv", "a,b\nx,y\n"), ("jsonl", '{"a": "x", "b": "y"}')):
        fault = "no column of this name" if columns else "no two columns have usual names"
        with pytest.raises(ColumnsError, match=f"{fault}.*; its columns are 'a', 'b': name two"):
            rows_of(content, file_format, **columns)


@pytest.mark.parametrize(
    ("file_format", "content"),
    [
        ("jsonl", f'{{"{SECRET}": 1, "{SECRET}": 2}}'),
        ("jsonl", f'{{"{SECRET}": 1}}'),
        ("jsonl", f'"{SECRET}"'),
        ("jsonl", SECRET),
        ("jsonl", f'{{"input": "{SECRET}\\ud800", "output": "x"}}'),
        ("csv", f"{SECRET},{SECRET}\n"),
        ("csv", f"{SECRET},billing\nx,y\n"),
        ("csv", f"text,label\n{SECRET}\n"),
        ("csv", f'text,label\n"{SECRET}" {SECRET},x\n'),
        ("csv", f'text,label\n"{SECRET}'),
        ("csv", f"text,label\n{SECRET}\ud800".encode("utf-8", "surrogatepass")),
    ],
)
def test_no_error_quotes_the_file(file_format: str, content: str | bytes) -> None:
    with pytest.raises(DatasetFileError) as caught:
        rows_of(content, file_format)
    assert SECRET not in str(caught.value)


def test_rows_beyond_the_limit_are_not_read() -> None:
    file = read_dataset(b"text,label\n" + b"x,y\n" * 99 + b"too,many,cells\n" * 3, format="csv", max_rows=60)
    assert len(file.examples) == 61


@pytest.mark.parametrize(
    ("name", "content_type", "expected"),
    [
        ("a.jsonl", "", "jsonl"),
        ("a.b.CSV", "application/json", "csv"),
        ("a.tsv", "text/csv", "tsv"),
        ("a", "text/csv; charset=utf-8", "csv"),
        ("a.txt", "Application/X-NDJSON", "ndjson"),
        ("a.jsonl.gz", "application/gzip", "jsonl"),
        ("a.json", "", "json"),
        ("csv", "", None),
        ("a.xlsx", "application/octet-stream", None),
        ("", "", None),
        ("\0/..\udcff", "", None),
    ],
)
def test_the_format_follows_from_the_suffix_or_else_the_media_type(
    name: str, content_type: str, expected: str | None
) -> None:
    assert format_of(name, content_type) == expected


@given(
    data=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    file_format=st.sampled_from(FORMATS),
)
def test_any_bytes_give_rows_or_a_dataset_error(data: bytes, file_format: str) -> None:
    for content in (data, b"text,label\n" + data, b'{"input": "x", "output": "y"}\n' + data):
        try:
            rows = rows_of(content, file_format)
        except DatasetFileError as error:
            line = error.line or 1
        else:
            line = 1
            "".join(row["input"] + row["output"] for row in rows).encode()
        assert 1 <= line <= content.count(b"\n") + content.count(b"\r") + 1


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_COLUMNS = st.sampled_from(["input", "output", "text", "label"])
_KEYS_OF_TOOLS = st.sampled_from(
    ["answer", "options", "data", "annotations", "cats", "paragraphs", "fields", "responses", "messages", "tag"]
) | st.sampled_from(["patterns", "examples", "utterances", "columns", "label.responses", "label.suggestion"])


@given(lines=st.lists(st.dictionaries(_COLUMNS | _KEYS_OF_TOOLS, _VALUES) | _VALUES, max_size=4))
def test_any_json_gives_rows_or_a_dataset_error(lines: list[object]) -> None:
    for content in ("\n".join(map(json.dumps, lines)), json.dumps(lines)):
        with suppress(DatasetFileError):
            rows_of(content)


@given(texts=st.lists(st.tuples(VISIBLE_TEXTS, VISIBLE_TEXTS), min_size=1), ascii_only=st.booleans())
def test_rows_written_as_json_are_read_back(texts: list[tuple[str, str]], ascii_only: bool) -> None:
    rows = [example(text, label) for text, label in texts]
    assert rows_of("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)) == rows


@given(
    texts=st.lists(st.tuples(VISIBLE_TEXTS, VISIBLE_TEXTS), min_size=1),
    file_format=st.sampled_from(["csv", "tsv"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_rows_written_as_csv_are_read_back(
    texts: list[tuple[str, str]], file_format: str, encoding: str, quoting: int
) -> None:
    # Such a cell is read as several lines if each of them has as many cells as the header.
    ambiguous = any("\t" in text and re.search(r"[\r\n]", text) for pair in texts for text in pair)
    assume(file_format == "csv" or not ambiguous)
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter="\t" if file_format == "tsv" else ",", quoting=quoting)
    writer.writerows([("text", "label"), *texts])
    assert rows_of(written.getvalue().encode(encoding), file_format) == [example(*pair) for pair in texts]


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": 1, "a": 1}', "[" * 100_000, "1 1"])
def test_invalid_json_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*sys\.)"):
        load_json(text)


def test_standard_json_is_parsed() -> None:
    assert load_json('{"a": [1, 2.5, "x", true, null]}') == {"a": [1, 2.5, "x", True, None]}


@pytest.mark.parametrize(
    ("name", "text", "options", "expected"),
    [
        ("jsonl", '{"text": "x", "labels": ["a", "b"]}\n{"text": "y", "labels": []}', {}, [("a", "b"), ()]),
        ("csv", "text,labels\nx,b; a;\ny,a\n", {"label_separator": ";"}, [("a", "b"), ("a",)]),
        ("csv", "text,labels\nx,\"['a', 'it''s']\"\n", {}, None),
        ("csv", 'text,labels\nx,"[""a"", ""b""]"\ny,[]\n', {"label_separator": ";"}, [("a", "b"), ()]),
        ("csv", "text,labels\nx,\"['a', 'b c']\"\ny,a;b\n", {}, [("a", "b c"), ("a;b",)]),
        ("txt", "__label__a __label__b x\ny __label__c\n", {}, [("a", "b"), ("c",)]),
        (
            "csv",
            "text,bug,login,idea\nx,1,1,0\ny,0,0,1\nz,0,1,1\n",
            {},
            [("bug", "login"), ("idea",), ("idea", "login")],
        ),
    ],
)
def test_several_labels_are_read_from_lists_cells_and_columns(
    name: str, text: str, options: dict[str, str], expected: list[tuple[str, ...]] | None
) -> None:
    read = read_dataset(text.encode(), format=name, multilabel=True, **options)
    if expected is None:  # not a list that Python prints: one label
        assert len(read.examples[0].labels) == 1
    else:
        assert [example.labels for example in read.examples] == expected


@pytest.mark.parametrize(
    "text",
    ["text,labels\nx,\ny,a\n", "text,labels\nx,;\ny,a\n", '{"text": "x", "label": null}', '{"text": "x", "label": ""}'],
)
def test_a_missing_label_is_no_empty_list_of_labels(text: str) -> None:
    with pytest.raises(DatasetFileError, match=r"1 row has no label .*: .* or write \[\] for a text of no label"):
        read_dataset(text.encode(), label_separator=";")
