"""`ipt evaluate` and `ipt tasks report`: tables, JSON and errors."""

import json
from pathlib import Path

import httpx
import pytest

from app.cli.root import run
from tests.support.cli import Captured, one_error_line
from tests.support.service import EXAMPLES, WorkOff, adaptation_body


@pytest.fixture
def url(client: httpx.Client, work_off: WorkOff, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a service with the task "tickets" of two versions."""
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal would wrap the texts
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    first = client.post("/v1/adaptations", json=adaptation_body()).raise_for_status().json()
    work_off()
    body = {key: value for key, value in adaptation_body().items() if key != "name"}
    client.post("/v1/adaptations", json=body | {"task_id": first["task_id"]}).raise_for_status()
    work_off()
    return str(client.base_url)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    rows = [*EXAMPLES, {"input": "i was charged twice today", "output": "login"}, {"input": "x", "output": "[weather]"}]
    path = tmp_path / "test.csv"
    path.write_text("text,label\n" + "".join(f"{row['input']},{row['output']}\n" for row in rows))
    return path


def test_an_evaluation_prints_labels_and_wrong_answers_and_compares(
    url: str, rows_file: Path, capsys: Captured
) -> None:
    options = ["--version", "2", "--compare-with", "1", "--url", url]
    assert run(["evaluate", "tickets", str(rows_file), *options]) == 0
    printed = capsys.readouterr().out
    assert "version 2, on" in printed
    assert "on 9 test rows" in printed
    assert "labels that the task does not know, not measured: [weather] (1)" in printed
    assert "only version 2 answers 0 right, only version 1 0." in printed
    assert "McNemar's test: p = 1, may be chance" in printed
    assert run(["evaluate", "tickets", str(rows_file), "--json", "--url", url]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["task_version"], answer["comparison"], answer["report"]["rows"]) == (2, None, 9)
    assert f"{answer['report']['accuracy']:.1%}" in printed
    assert answer["report"]["wrong"], "one row has the label of other rows with nearly the same text"
    for row in answer["report"]["wrong"]:
        assert row["input"] in printed


def test_a_report_is_of_the_version_that_answers_unless_another_is_named(url: str, capsys: Captured) -> None:
    assert run(["tasks", "report", "tickets", "--url", url]) == 0
    assert "on 8 examples, each held back once" in capsys.readouterr().out
    versions = []
    for options in ([], ["--version", "1"]):
        assert run(["tasks", "report", "tickets", "--json", "--url", url, *options]) == 0
        versions.append(json.loads(capsys.readouterr().out)["task_version"])
    assert versions == [2, 1]


def test_errors_name_the_line_of_the_file(url: str, rows_file: Path, capsys: Captured) -> None:
    rows_file.write_text("text,label\nhello,\n")
    assert run(["evaluate", "tickets", str(rows_file), "--url", url]) == 1
    assert f"{rows_file}:2" in one_error_line(capsys)
    rows_file.write_text("text,label\nhello,weather\n")
    assert run(["evaluate", "tickets", str(rows_file), "--url", url]) == 1
    assert "knows none of the labels" in one_error_line(capsys)
