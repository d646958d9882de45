"""`POST /v1/tasks/{id}/suggest` chooses among unlabelled texts."""

from pathlib import Path

import httpx
import pytest

from app.cli.root import run
from app.suggestions import service
from tests.support.cli import Captured
from tests.support.service import WorkOff, adaptation_body, error_of

TEXTS = [f"{subject} {problem}" for subject in ("card", "password", "phone") for problem in ("wrong", "broken", "lost")]


@pytest.fixture
def task(client: httpx.Client, work_off: WorkOff) -> str:
    """The path of a tuned task."""
    path = f"/v1/tasks/{client.post('/v1/adaptations', json=adaptation_body()).json()['task_id']}"
    work_off()
    return path


def test_texts_are_suggested_with_their_labels_and_uncertainties(
    client: httpx.Client, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "TEXTS_AT_ONCE", 4)
    answer = client.post(f"{task}/suggest", json={"inputs": TEXTS, "count": 3}).raise_for_status().json()
    assert answer["task_version"] == 1
    assert len({suggestion["index"] for suggestion in answer["suggestions"]}) == 3
    predictions = client.post(f"{task}/predict", json={"inputs": TEXTS}).json()["predictions"]
    for suggestion in answer["suggestions"]:
        prediction = predictions[suggestion["index"]]
        high, low = sorted(prediction["scores"].values(), reverse=True)
        assert suggestion["label"] == prediction["label"]
        assert suggestion["uncertainty"] == pytest.approx(1 - (high - low), abs=1e-4)
    every = client.post(f"{task}/suggest", json={"inputs": TEXTS, "count": 99}).json()["suggestions"]
    assert sorted(suggestion["index"] for suggestion in every) == list(range(len(TEXTS)))


def test_too_many_texts_are_rejected(client: httpx.Client, task: str) -> None:
    response = client.post(f"{task}/suggest", json={"inputs": ["hello"] * 10_001})
    assert (response.status_code, error_of(response)["code"]) == (422, "too_many_inputs")
    response = client.post(f"{task}/suggest", json={"inputs": ["hello"], "version": 2})
    assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")


def test_the_command_prints_the_texts(
    client: httpx.Client, task: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    path = tmp_path / "texts.txt"
    path.write_bytes("\n".join([*TEXTS, "déjà payé"]).encode("cp1252"))
    assert run(["suggest", "any", str(path), "--url", str(client.base_url)]) == 1
    assert f"{path}:10: not UTF-8 text" in capsys.readouterr().err
    path.write_text("\n".join(TEXTS) + "\n")
    assert run(["suggest", task.rpartition("/")[2], str(path), "--count", "2", "--url", str(client.base_url)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert set(printed) <= set(TEXTS)
