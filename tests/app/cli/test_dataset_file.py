"""Datasets from files: the accepted formats, and the errors that name file, line and column."""

from pathlib import Path

import pytest

from app.cli.dataset_file import read_dataset
from app.cli.output import CliError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_jsonl_with_input_and_output(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"input": "x", "output": "y", "id": 7}\n\n{"input": "é", "output": "z"}\n')
    assert read_dataset(path) == [{"input": "x", "output": "y"}, {"input": "é", "output": "z"}]


def test_csv_with_quoted_commas_line_breaks_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", '\ufefftext,label\r\n"one, two\r\nthree",a\r\nfour,b\r\n')
    assert read_dataset(path) == [
        {"input": "one, two\r\nthree", "output": "a"},
        {"input": "four", "output": "b"},
    ]


def test_tab_separated_files(tmp_path: Path) -> None:
    assert read_dataset(write(tmp_path, "a.tsv", "text\tlabel\nx, y\ta\n")) == [{"input": "x, y", "output": "a"}]


def test_named_columns_take_precedence(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "input,output,team\nx,y,z\n")
    assert read_dataset(path, output_column="team") == [{"input": "x", "output": "z"}]


def test_line_separators_inside_json_text_do_not_split_a_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"input": "a\u2028b", "output": "c"}\n')
    assert read_dataset(path)[0]["input"] == "a\u2028b"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.jsonl", "\n\n", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.jsonl", '{"input": "x", "output": "y"}\n{"input": "x"\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1: not JSON"),
        ("a.jsonl", '["x", "y"]\n', "expected a JSON object"),
        ("a.jsonl", '{"input": "x", "output": "y"}\n{"input": "x"}\n', "a.jsonl:2: output: expected a text"),
        ("a.jsonl", '{"input": "x", "output": 3}\n', "a.jsonl:1: output: expected a text in quotes, got a number"),
        ("a.jsonl", '{"input": NaN, "output": "y"}\n', "a.jsonl:1: not JSON (NaN"),
        (
            "a.jsonl",
            '{"question": "x", "team": "y"}\n',
            "the columns are 'question', 'team': name two of them with --input-column",
        ),
        ("a.csv", "text,label\nx,y,z\n", "a.csv:2: more cells"),
        ("a.csv", "text,label\nx\n", "a.csv:2: fewer cells"),
        ("a.csv", 'text,label\n"x" y,z\n', "a.csv:2"),
        ("a.csv", b"text,label\n\xff\xfe,z\n", "not UTF-8"),
        ("a.csv", "text;label\nx;y\n", "a.csv:1: the columns seem to be separated by semicolons, where CSV has commas"),
        ("a.xlsx", "x", "expected a .jsonl"),
    ],
)
def test_an_invalid_file_is_reported_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(CliError) as caught:
        read_dataset(write(tmp_path, name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="No such file"):
        read_dataset(tmp_path / "none.jsonl")
    with pytest.raises(CliError, match="directory"):
        read_dataset(tmp_path)


def test_one_column_for_texts_and_labels_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\nx,y\n")
    with pytest.raises(CliError, match="both be the column 'label'; the columns are 'text', 'label': name"):
        read_dataset(path, input_column="label")


def test_an_unknown_column_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\nx,y\n")
    with pytest.raises(CliError, match="no column 'team'"):
        read_dataset(path, input_column="text", output_column="team")
