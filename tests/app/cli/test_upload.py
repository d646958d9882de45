"""Dataset files that the command line sends: the places in answers become file and line."""

from pathlib import Path

import httpx
import pytest

from app.cli.client import ServiceClient
from app.cli.output import CliError
from app.cli.root import run
from app.cli.upload import send_file, task_name, with_file_name
from tests.support.service import EXAMPLES

FILE = Path("data/a.csv")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("file:5.output: 1 row has no label", "data/a.csv:5: output: 1 row has no label"),
        ("file:5: not CSV", "data/a.csv:5: not CSV"),
        ("file: the file is empty", "data/a.csv: the file is empty"),
        ("examples: all examples have the same output", "examples: all examples have the same output"),
        (
            "file:2: it looks like Windows-1252: send charset=windows-1252, or save the file as UTF-8",
            "data/a.csv:2: it looks like Windows-1252: add --charset windows-1252, or save the file as UTF-8",
        ),
        (
            "file: name two columns with input_column and output_column",
            "data/a.csv: name two columns with --input-column and --output-column",
        ),
        ("the same text is in file:3 and file:12", "the same text is in data/a.csv:3 and data/a.csv:12"),
    ],
)
def test_places_are_named_by_file_and_line(message: str, expected: str) -> None:
    assert with_file_name(message, FILE) == expected


@pytest.mark.parametrize("name", ["tickets.csv", "tickets.jsonl.gz", "tickets"])
def test_a_task_is_named_after_its_file(name: str) -> None:
    assert task_name(Path("data") / name) == "tickets"


def test_a_dry_run_says_how_the_file_is_read(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    path = tmp_path / "a.txt"
    rows = [f"{row['input']} – café;{row['output']}" for row in EXAMPLES]
    path.write_bytes("\n".join(["Sentence;Class", *rows, rows[0]]).encode("cp1252"))
    url = str(client.base_url)
    assert run(["adapt", str(path), "--dry-run", "--url", url]) == 1
    assert f"{path}:2: not UTF-8 text" in capsys.readouterr().err
    assert run(["adapt", str(path), "--dry-run", "--charset", "windows-1252", "--url", url]) == 0
    printed = capsys.readouterr().out
    how = "read as csv: windows-1252, delimiter semicolon, columns 'Sentence' and 'Class'"
    assert f"{path}: {how}" in printed
    assert "9 examples of 2 labels: billing (5), login (4)" in printed
    assert "warning: 1 of 9 examples repeat" in printed
    assert client.get("/v1/adaptations").json()["data"] == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with ServiceClient("http://127.0.0.1:1") as service, pytest.raises(CliError, match="No such file"):
        send_file(service, "/v1/adaptations", tmp_path / "none.csv", {})


def test_classify_names_the_lines_of_its_file(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    path = tmp_path / "a.csv"
    rows = [f"{row['input']};{row['output']}" for row in EXAMPLES]
    path.write_text("\n".join(["asked;team", *rows, "what now;other"]), encoding="utf-8")
    command = ["classify", str(path), "- no login", "--url", str(client.base_url)]
    assert run(command) == 1
    assert "name two columns of the file with --input-column and --output-column" in capsys.readouterr().err
    assert run([*command, "--input-column=asked", "--output-column=team"]) == 1
    assert f"'other' ({path}:{len(rows) + 2})" in capsys.readouterr().err
