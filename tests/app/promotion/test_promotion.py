"""Which version of a task answers: the newest, a promoted one, or for a share of the requests a canary."""

import httpx
import pytest
from sqlalchemy import Engine, delete

from app.cli.root import run
from app.db.models import Adaptation
from app.db.session import transaction
from tests.support.cli import Captured
from tests.support.service import WorkOff, adaptation_body, error_of


@pytest.fixture
def task(client: httpx.Client, work_off: WorkOff) -> str:
    """The path of a task with two versions."""
    path = f"/v1/tasks/{client.post('/v1/adaptations', json=adaptation_body()).json()['task_id']}"
    work_off()
    add_version(client, path, work_off)
    return path


def add_version(client: httpx.Client, task: str, work_off: WorkOff) -> None:
    body = adaptation_body(task_id=task.rpartition("/")[2])
    del body["name"]
    assert client.post("/v1/adaptations", json=body).status_code == 202
    work_off()


def promote(client: httpx.Client, task: str, version: int) -> dict[str, object]:
    document: dict[str, object] = client.post(f"{task}/promote", json={"version": version}).raise_for_status().json()
    return document


def change(client: httpx.Client, task: str, **changes: object) -> dict[str, object]:
    document: dict[str, object] = client.patch(task, json=changes).raise_for_status().json()
    return document


def answering(client: httpx.Client, task: str) -> set[int]:
    """Return the versions that answer, as each route says."""
    single = client.post(f"{task}/predict", json={"inputs": ["hello"]}).raise_for_status().json()
    requests = {"requests": [{"task_id": task.rpartition("/")[2], "input": "hello"}]}
    [of_many] = client.post("/v1/predict", json=requests).raise_for_status().json()["predictions"]
    return {client.get(task).json()["version"], single["task_version"], of_many["version"]}


def test_a_new_version_answers_at_once_unless_the_task_says_otherwise(
    client: httpx.Client, task: str, work_off: WorkOff
) -> None:
    assert client.get(task).json()["promote"] == "always"
    assert answering(client, task) == {2}
    assert change(client, task, promote="manual")["version"] == 2
    add_version(client, task, work_off)
    assert answering(client, task) == {2}
    assert promote(client, task, 3)["version"] == 3
    assert answering(client, task) == {3}


def test_a_roll_back_lasts_until_a_newer_version(client: httpx.Client, task: str, work_off: WorkOff) -> None:
    promote(client, task, 1)
    assert answering(client, task) == {1}
    [listed] = client.get("/v1/tasks").json()["data"]
    assert (listed["version"], [version["version"] for version in listed["versions"]]) == (1, [2])
    add_version(client, task, work_off)
    assert answering(client, task) == {3}


def test_the_first_version_of_a_manual_task_answers(client: httpx.Client, work_off: WorkOff) -> None:
    task = f"/v1/tasks/{client.post('/v1/adaptations', json=adaptation_body()).json()['task_id']}"
    assert change(client, task, promote="manual")["version"] is None
    assert client.post(f"{task}/predict", json={"inputs": ["hello"]}).status_code == 409
    work_off()
    add_version(client, task, work_off)
    assert answering(client, task) == {1}
    assert change(client, task, promote="always")["version"] == 1, "a change of policy changes no answer"
    add_version(client, task, work_off)
    assert answering(client, task) == {3}


def test_many_tasks_are_asked_for_any_version(client: httpx.Client, task: str) -> None:
    requests = [{"task_id": task.rpartition("/")[2], "input": "hello", "version": version} for version in (1, 2)]
    answer = client.post("/v1/predict", json={"requests": [*requests, requests[0]]}).json()["predictions"]
    assert [prediction["version"] for prediction in answer] == [1, 2, 1]
    assert answer[0] == answer[2]
    response = client.post("/v1/predict", json={"requests": [requests[0], requests[1] | {"version": 9}]})
    assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")


def test_a_canary_answers_its_share_and_a_repeated_request_stays_with_its_version(
    client: httpx.Client, task: str, service_engine: Engine
) -> None:
    shown = change(client, task, canary={"version": 1, "share": 0.3})
    assert (shown["version"], shown["canary"]) == (2, {"version": 1, "share": 0.3})
    task_id = task.rpartition("/")[2]

    def version_of(text: str) -> int:
        number: int = client.post(f"{task}/predict", json={"inputs": [text]}).json()["task_version"]
        return number

    texts = [f"text {number}" for number in range(60)]
    versions = [version_of(text) for text in texts]
    assert 8 <= versions.count(1) <= 28
    assert [version_of(text) for text in texts[:20]] == versions[:20]
    body = {"requests": [{"task_id": task_id, "input": text} for text in texts]}
    together = client.post("/v1/predict", json=body).json()["predictions"]
    assert len({prediction["version"] for prediction in together}) == 1
    change(client, task, canary={"version": 1, "share": 1})
    assert {version_of(text) for text in texts[:5]} == {1}
    with transaction(service_engine) as session:
        session.execute(delete(Adaptation).where(Adaptation.task_id == task_id, Adaptation.task_version == 1))
    assert {version_of(text) for text in texts[:5]} == {2}, "a canary that was deleted answers nothing"
    assert client.get(task).json()["canary"] is None


def test_promoting_the_canary_ends_it(client: httpx.Client, task: str) -> None:
    change(client, task, canary={"version": 1, "share": 0.5})
    shown = promote(client, task, 1)
    assert (shown["version"], shown["canary"]) == (1, None)
    change(client, task, canary={"version": 2, "share": 0.5})
    assert change(client, task, canary=None)["canary"] is None


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"canary": {"version": 7, "share": 0.5}}, 404, "canary.version"),
        ({"canary": {"version": 1, "share": 0}}, 422, "canary.share"),
        ({"canary": {"version": 1, "share": 1.5}}, 422, "canary.share"),
        ({"promote": "sometimes"}, 422, "promote"),
        ({}, 422, None),
    ],
)
def test_a_wrong_change_names_its_field(
    client: httpx.Client, task: str, changes: dict[str, object], status: int, param: str | None
) -> None:
    response = client.patch(task, json=changes)
    assert (response.status_code, error_of(response)["param"]) == (status, param)
    assert client.post(f"{task}/promote", json={"version": 9}).status_code == 404
    assert answering(client, task) == {2}


def test_the_command_promotes(
    client: httpx.Client, task: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    arguments = ["tasks", "promote", task.rpartition("/")[2], "--url", str(client.base_url)]
    assert run([*arguments, "1", "--new-versions", "manual", "--canary", "2", "--share", "0.25"]) == 0
    assert "version 1 answers, version 2 25% of the requests; new versions: manual" in capsys.readouterr().out
    assert run([*arguments, "--canary", "0"]) == 0
    assert "requests" not in capsys.readouterr().out
    assert run(arguments) == 1
    assert "name the version" in capsys.readouterr().err
