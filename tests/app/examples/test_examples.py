"""`/v1/tasks/{id}/examples`: what a task was tuned on is listed, exported and changed."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, delete, update

from app.cli.root import run
from app.db.models import HeldOutRow, SubspaceRow
from app.db.session import read_transaction, transaction
from app.queue import claiming
from ipt.tuning.held_out import HeldOutLogits
from tests.support.cli import Captured
from tests.support.service import EXAMPLES, WorkOff, adaptation_body, error_of
from worker.batch import RunningJob


@pytest.fixture
def examples(client: httpx.Client) -> str:
    """The path of the examples of a task that is not tuned yet, with a validation example."""
    body = adaptation_body(validation_examples=[{"input": "pay me back", "output": "billing"}])
    return f"/v1/tasks/{client.post('/v1/adaptations', json=body).json()['task_id']}/examples"


def change(client: httpx.Client, examples: str, version: int = 1, **changes: Any) -> httpx.Response:
    return client.patch(examples, json={"version": version, "hyperparameters": {"steps": 1}, **changes})


def listed(client: httpx.Client, examples: str, **params: Any) -> list[tuple[str, str]]:
    page = client.get(examples, params={"limit": 1000, **params}).raise_for_status().json()
    return [(row["input"], row["output"]) for row in page["data"]]


def test_examples_are_listed_in_pages_and_by_label(client: httpx.Client, examples: str) -> None:
    pages = [client.get(examples, params={"limit": 4}).json()]
    while pages[-1]["has_more"]:
        pages.append(client.get(examples, params={"limit": 4, "after": pages[-1]["next"]}).json())
    rows = [row for page in pages for row in page["data"]]
    assert [len(page["data"]) for page in pages] == [4, 4, 1]
    assert [{"input": row["input"], "output": row["output"]} for row in rows[:8]] == EXAMPLES
    assert [row["split"] for row in rows] == ["examples"] * 8 + ["validation_examples"]
    assert len({row["id"] for row in rows}) == 9
    assert (pages[0]["version"], pages[0]["state"], pages[0]["labels"]) == (1, "queued", {"billing": 5, "login": 4})
    assert {output for _, output in listed(client, examples, label="login")} == {"login"}
    assert listed(client, examples, label="nothing") == []
    response = client.get(examples, params={"version": 2})
    assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")


@pytest.mark.parametrize("file_format", ["jsonl", "csv"])
def test_an_exported_file_can_be_adapted_to(client: httpx.Client, examples: str, file_format: str) -> None:
    change(client, examples, add=[{"input": 'a "quoted", line\nand another', "output": "login"}])
    exported = client.get(f"{examples}/file", params={"format": file_format})
    lines = exported.text.splitlines()
    rows = list(csv.DictReader(io.StringIO(exported.text))) if file_format == "csv" else list(map(json.loads, lines))
    assert [(row["input"], row["output"]) for row in rows] == listed(client, examples)
    file = {"file": (f"examples.{file_format}", exported.content)}
    again = client.post("/v1/adaptations", data={"name": "again"}, files=file).raise_for_status().json()
    assert listed(client, f"/v1/tasks/{again['task_id']}/examples") == listed(client, examples)


def test_a_change_makes_a_version_and_the_history_keeps_the_datasets(client: httpx.Client, examples: str) -> None:
    changed = change(client, examples, rename_labels=[{"label": "login", "to": "access"}])
    assert (changed.status_code, changed.json()["task_version"]) == (202, 2)
    assert changed.headers["location"] == f"/v1/adaptations/{changed.json()['id']}"
    assert not [warning for warning in changed.json()["warnings"] if "forgets" in warning]
    change(client, examples, version=2, rename_labels=[{"label": "access", "to": "login"}])
    history = client.get(f"{examples}/history").json()["data"]
    assert [(entry["version"], entry["examples"], entry["validation_examples"]) for entry in history] == [
        (3, 8, 1), (2, 8, 1), (1, 8, 1),
    ]  # fmt: skip
    hashes = [entry["content_hash"] for entry in history]
    assert hashes[0] == hashes[2] != hashes[1]
    assert history[1]["change"] == {
        "version": 1, "removed": 0, "relabelled": 0, "added": 0, "renamed": {"login": "access"},
    }  # fmt: skip
    assert history[2]["change"] is None
    page = client.get(f"{examples}/history", params={"limit": 2}).json()
    following = client.get(f"{examples}/history", params={"after": page["next"]}).json()
    assert page["data"] + following["data"] == history
    assert ("login screen is broken", "access") in listed(client, examples, version=2)
    assert listed(client, examples) == listed(client, examples, version=1)


def test_of_two_changes_at_once_one_conflicts_and_nothing_is_lost(client: httpx.Client, examples: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        adds = [[{"input": f"new text {number}", "output": "login"}] for number in range(2)]
        responses = list(pool.map(lambda add: change(client, examples, add=add), adds))
    assert sorted(response.status_code for response in responses) == [202, 409]
    [loser] = [number for number, response in enumerate(responses) if response.status_code == 409]
    assert error_of(responses[loser])["code"] == "version_conflict"
    newest = client.get(examples).json()["version"]
    assert newest == 2
    assert change(client, examples, version=newest, add=adds[loser]).status_code == 202
    assert len(listed(client, examples)) == 11


def test_a_repeated_change_with_its_key_is_made_once(client: httpx.Client, examples: str) -> None:
    body = {"version": 1, "add": [{"input": "new text", "output": "login"}]}
    key = {"Idempotency-Key": "change-1"}
    first, second = (client.patch(examples, json=body, headers=key).json() for _ in range(2))
    assert first == second
    other = client.patch(examples, json=body | {"version": 2}, headers=key)
    assert (other.status_code, error_of(other)["code"]) == (409, "idempotency_key_reused")


def test_a_label_with_one_example_left_is_an_error_and_changes_nothing(client: httpx.Client, examples: str) -> None:
    refs = [{"input": example["input"]} for example in EXAMPLES[:3]]
    response = change(client, examples, remove=refs)
    assert (response.status_code, error_of(response)["code"]) == (422, "invalid_dataset")
    message = error_of(response)["message"]
    assert "single example" in message
    [left] = [row for row in client.get(examples).json()["data"] if row["input"] == EXAMPLES[3]["input"]]
    assert left["id"] in message
    response = change(client, examples, add=[EXAMPLES[0], {"input": "x", "output": "rare"}])
    assert "'rare' (add[1])" in error_of(response)["message"]
    assert [entry["version"] for entry in client.get(f"{examples}/history").json()["data"]] == [1]
    response = client.patch(examples, json={"version": 1})
    assert response.status_code == 422
    assert "changes nothing" in error_of(response)["message"]


def test_tuning_of_a_change_starts_at_the_vector_of_the_newest_version(
    client: httpx.Client, examples: str, work_off: WorkOff, service_engine: Engine
) -> None:
    work_off()
    task_id = examples.split("/")[3]
    vector = client.get(f"/v1/tasks/{task_id}/vector").json()
    change(client, examples, add=[{"input": "my password", "output": "login"}]).raise_for_status()

    def starts(subspace_id: str) -> list[NDArray[np.float32] | None]:
        """Return where a worker of this subspace would start, and claim nothing."""
        with read_transaction(service_engine) as session:
            claimed = claiming.claim(
                session, subspace_ids=[subspace_id], worker_id="test", lease_seconds=60, free_slots=9, protected=0
            )
            return [RunningJob.from_claim(each).tuning.initial_vectors for each in claimed]

    with transaction(service_engine) as session:
        session.add(SubspaceRow(id="sub_other", intrinsic_dim=8, prompt_length=1, hidden_size=1, manifest={}))
    assert starts("sub_other") == [None], "the vector means something else in another subspace"
    [start] = starts(vector["subspace_id"])
    assert start is not None
    np.testing.assert_array_equal(start, np.array([vector["vector"]], dtype=np.float32))


def test_examples_with_doubtful_labels_are_listed(
    client: httpx.Client, examples: str, work_off: WorkOff, service_engine: Engine, capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    suspects, task = f"{examples}/suspects", examples.split("/")[3]
    assert client.get(suspects).status_code == 409
    work_off()
    logits = np.full((3, 2), [3.0, 0.0], dtype=np.float32)
    logits[1] = [0.0, 3.0]
    held_out = HeldOutLogits(np.array([0, 4, 5], dtype=np.int32), logits, np.array([[1, 6]], dtype=np.int32))
    with transaction(service_engine) as session:
        session.merge(HeldOutRow(task_id=task, version=1, logits=held_out.to_bytes()))
    [suspect] = client.get(suspects).json()["data"]
    assert suspect["example"]["input"] == EXAMPLES[5]["input"]
    assert (suspect["likely_label"], round(suspect["likely_probability"], 3)) == ("billing", 0.953)
    report = client.get(f"/v1/tasks/{task}/versions/1/report").raise_for_status().json()
    assert [(each["row"], each["likely_label"]) for each in report["suspects"]] == [(5, "billing")]
    assert [[each["input"] for each in pair] for pair in report["near_duplicates"]] == [
        [EXAMPLES[1]["input"], EXAMPLES[6]["input"]]
    ]
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    assert run(["tasks", "examples", task, "--suspect", "--url", str(client.base_url)]) == 0
    assert suspect["example"]["id"] in capsys.readouterr().out
    assert run(["tasks", "report", task, "--url", str(client.base_url)]) == 0
    printed = capsys.readouterr().out
    assert "perhaps a wrong label: login, rather billing" in printed
    assert "hardly differ: refund my money" in printed
    with transaction(service_engine) as session:
        session.execute(update(HeldOutRow).where(HeldOutRow.task_id == task).values(logits=b"damaged"))
    assert error_of(client.get(suspects))["code"] == "task_damaged"
    with transaction(service_engine) as session:
        session.execute(delete(HeldOutRow).where(HeldOutRow.task_id == task))
    assert client.get(suspects).json()["data"] == []


def test_the_commands_show_and_edit_examples(
    client: httpx.Client, examples: str, work_off: WorkOff, capsys: Captured, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    task, url = examples.split("/")[3], ["--url", str(client.base_url)]
    assert run(["tasks", "examples", task, "--label", "login", *url]) == 0
    shown = capsys.readouterr().out
    assert "i can not login" in shown
    assert "billing" not in shown
    name = next(word for line in shown.splitlines() if "account is lost" in line for word in line.split())
    added = tmp_path / "new.jsonl"
    added.write_text('{"input": "the password again", "output": "access"}\n')
    edits = ["--add", str(added), "--remove", name, "--rename", "login=access", "--no-wait"]
    assert run(["tasks", "edit", task, *edits, *url]) == 0
    assert "version 2: queued" in capsys.readouterr().out
    assert run(["tasks", "examples", task, "--format", "jsonl", *url]) == 0
    rows = {row["input"]: row["output"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (rows.get("account is lost"), rows["the password again"]) == (None, "access")
    assert run(["tasks", "edit", task, "--rename", "access=billing", *url]) == 1
    assert "send merge_labels" in capsys.readouterr().err
    assert run(["tasks", "edit", task, *url]) == 1
    assert "name a change" in capsys.readouterr().err
