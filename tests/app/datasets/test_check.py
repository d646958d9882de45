"""`POST /v1/datasets/check`: says how a dataset would be read, and stores nothing."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, func, select

from app.db.models import Adaptation, Dataset, Task
from app.db.session import transaction
from tests.support.service import EXAMPLES, SECRET, adaptation_body, error_of

JSONL = "".join(json.dumps(example) + "\n" for example in EXAMPLES)


def check(client: httpx.Client, content: str, **fields: str) -> httpx.Response:
    return client.post("/v1/datasets/check", files={"file": ("a.jsonl", content)}, data=fields)


def test_a_check_counts_the_labels_and_stores_nothing(client: httpx.Client, service_engine: Engine) -> None:
    with transaction(service_engine) as session:
        before = [session.scalar(select(func.count()).select_from(table)) for table in (Adaptation, Dataset, Task)]
    in_file = check(client, JSONL + json.dumps(EXAMPLES[0]) + "\n").json()
    assert in_file["source"]["file"]["format"] == "jsonl"
    in_json = client.post("/v1/datasets/check", json={"examples": [*EXAMPLES, EXAMPLES[0]]}).json()
    assert in_json == in_file | {"source": None}
    assert (in_json["kind"], in_json["examples"], in_json["validation_examples"]) == ("classification", 9, None)
    assert in_json["labels"] == {"billing": 5, "login": 4}
    [warning] = in_json["warnings"]
    assert warning.startswith("1 of 9 examples repeat")
    with transaction(service_engine) as session:
        after = [session.scalar(select(func.count()).select_from(table)) for table in (Adaptation, Dataset, Task)]
    assert after == before


@pytest.mark.parametrize(
    ("content", "param", "words"),
    [
        ('{"text": "x"}\n', "file", "no two columns have usual names"),
        (JSONL + '{"input": "x", "output": "z"}\n', "file:9.output", "'z' (file:9)"),
        ("%PDF-1.7", "file", "a PDF document"),
        (
            "".join(f'{{"text": "{"ab"[n % 2]}", "label": "{n} {SECRET}"}}\n' for n in range(9)),
            "kind",
            "are the columns swapped?",
        ),
        (
            "".join(f'{{"text": "x{n}", "label": {n}.5}}\n' for n in range(9)),
            "kind",
            "almost every output is a different",
        ),
        ("".join(f'{{"text": "x{n}", "label": "2024-01-0{n + 1}"}}\n' for n in range(9)), "kind", "a date or a time"),
    ],
)
def test_errors_point_the_right_way(client: httpx.Client, content: str, param: str, words: str) -> None:
    response = check(client, content)
    assert response.status_code == 422
    assert error_of(response)["param"] == param
    assert words in error_of(response)["message"]
    assert SECRET not in response.text


def test_fields_that_only_start_something_are_unknown(client: httpx.Client) -> None:
    response = check(client, JSONL, name="x")
    assert (response.status_code, error_of(response)["code"], error_of(response)["param"]) == (
        422,
        "unknown_field",
        "name",
    )


def test_a_compressed_body_is_rejected_with_what_to_do(client: httpx.Client) -> None:
    response = client.post("/v1/datasets/check", content=b"x", headers={"content-encoding": "gzip"})
    assert (response.status_code, error_of(response)["code"]) == (415, "content_encoding_not_supported")
    assert "compress the file" in error_of(response)["message"]


def new_version(client: httpx.Client, task_id: str, rows: list[dict[str, str]], **changes: Any) -> dict[str, Any]:
    body = adaptation_body(examples=rows, task_id=task_id, **changes)
    del body["name"]
    answer: dict[str, Any] = client.post("/v1/adaptations", json=body).json()
    return answer


def test_a_contradiction_of_a_kept_example_is_a_warning_of_a_file_too(client: httpx.Client, work_off: Any) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    [other] = {example["output"] for example in EXAMPLES} - {EXAMPLES[0]["output"]}
    rows = f"{EXAMPLES[0]['input'].upper()}!,{other}\nget a human,{other}\n"
    data = {"task_id": task_id, "extend": "true"}
    response = client.post("/v1/datasets/check", data=data, files={"file": ("more.csv", f"text,label\n{rows}")})
    assert response.status_code == 200, response.text
    assert any("a kept example" in warning for warning in response.json()["warnings"]), response.json()["warnings"]


def test_outputs_that_are_missing_are_named_together(client: httpx.Client) -> None:
    rows = [*EXAMPLES, *({"input": f"text {number}", "output": " "} for number in range(24)), {"input": "no output"}]
    error = error_of(client.post("/v1/datasets/check", json={"examples": rows}))
    assert error["param"] == "examples"
    first = ", ".join(str(len(EXAMPLES) + number) for number in range(20))
    assert error["message"] == f"25 examples have no output: numbers {first} and 5 more"
    single = [*EXAMPLES, *({"input": f"text {number}", "output": f"label {number}"} for number in range(25))]
    message = error_of(client.post("/v1/datasets/check", json={"examples": single, "kind": "classification"}))[
        "message"
    ]
    assert message.startswith("25 labels have a single example: 'label 0' (examples[")
    assert "and 5 more" in message


def test_a_respelled_label_of_the_version_before_is_a_warning(client: httpx.Client, work_off: Any) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    respelled = [{**row, "output": row["output"].title()} for row in EXAMPLES]
    body = {"examples": respelled, "task_id": task_id}
    [warning] = [each for each in check_json(client, body)["warnings"] if "another spelling" in each]
    labels = sorted({row["output"] for row in EXAMPLES})
    assert all(f"{label!r} as {label.title()!r}" in warning for label in labels)
    [other] = {row["output"] for row in EXAMPLES} - {EXAMPLES[0]["output"]}
    contradicting = [{"input": f"{EXAMPLES[0]['input'].upper()}!", "output": other}, {"input": "a b", "output": other}]
    kept = check_json(client, {"examples": contradicting, "task_id": task_id, "extend": True})["warnings"]
    assert any("a kept example and examples[0]" in warning for warning in kept), kept


def check_json(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/v1/datasets/check", json=body).raise_for_status().json()
    return answer


def test_a_new_version_names_the_labels_that_it_forgets_and_extend_keeps_them(
    client: httpx.Client, work_off: Any
) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    new = [{"input": f"{word} a human", "output": "escalation"} for word in ("get", "call")]
    new += [{"input": EXAMPLES[0]["input"], "output": "Login"}, {"input": "can not log in", "output": "login"}]
    early = new_version(client, task_id, new, extend=True)
    assert early["error"]["code"] == "task_not_ready"
    work_off()
    forgetful = new_version(client, task_id, new)
    [warning] = [entry for entry in forgetful["warnings"] if "forgets" in entry]
    assert "forgets 1 label of version 1: 'billing'" in warning
    unfinished = new_version(client, task_id, new, extend=True)
    assert (unfinished["error"]["code"], unfinished["error"]["param"]) == ("version_conflict", "extend")
    client.post(f"/v1/adaptations/{forgetful['id']}/cancel").raise_for_status()
    checked = client.post("/v1/datasets/check", json={"examples": new, "task_id": task_id, "extend": True}).json()
    assert checked["labels"] == {"escalation": 2, "login": 6, "billing": 3}
    assert not [entry for entry in checked["warnings"] if "forgets" in entry]
    assert new_version(client, task_id, new, extend=True)["task_version"] == 3
    response = client.post("/v1/datasets/check", json={"examples": EXAMPLES, "extend": True})
    assert (response.status_code, error_of(response)["param"]) == (422, "extend")
