"""Every kind of file that people have, through the API and through the command line."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.root import run
from tests.support.real_files import CASES
from tests.support.service import error_of
from tests.support.written_files import PAIRS, Case, table


def check(client: httpx.Client, case: Case) -> httpx.Response:
    return client.post("/v1/datasets/check", files={"file": (case.name, case.data)}, data=case.fields)


def options_of(case: Case) -> list[str]:
    """Return the fields of a form as options of `ipt adapt`, which needs no format."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in case.fields.items() if name != "format"]


@pytest.mark.parametrize("name", CASES)
def test_a_file_does_the_same_through_api_and_command_line(
    name: str,
    client: httpx.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    case, path = CASES[name], tmp_path / name
    path.write_bytes(case.data)
    response = check(client, case)
    status = run(["adapt", str(path), "--dry-run", "--json", "--url", str(client.base_url), *options_of(case)])
    printed = capsys.readouterr()
    if case.error:
        assert (response.status_code, status) == (422, 1)
        detail = error_of(response)
        for words in case.error:
            assert words in f"{detail['param']}: {detail['message']}"
            assert words in printed.err
        assert str(path) in printed.err or detail["param"] == "kind"
        return
    assert (response.status_code, status) == (200, 0), response.text + printed.err
    answer = response.json()
    assert json.loads(printed.out) == answer
    source: dict[str, Any] = answer["source"]["file"]
    assert (answer["labels"], answer["examples"]) == (case.labels, sum(case.labels.values()))
    assert (source["rows"], source["skipped"]) == (answer["examples"], case.skipped)
    assert case.format in (None, source["format"])
    warnings = "\n".join(answer["warnings"])
    for words in case.warnings:
        assert words in warnings


def test_rows_that_train_and_validate_are_not_measured(client: httpx.Client) -> None:
    data = table(PAIRS).encode()
    files = {"file": ("train.csv", data), "validation_file": ("val.csv", data)}
    warnings = client.post("/v1/datasets/check", files=files).json()["warnings"]
    assert any("24 of 24 validation examples are also among the training examples" in warning for warning in warnings)
