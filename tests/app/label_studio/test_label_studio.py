"""The backend as Label Studio calls it: request bodies are recorded ones, with every field that it sends."""

from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from app.db.models import Task
from app.db.session import transaction
from app.label_studio.label_config import text_choices
from app.tenants import repository as tenants
from tests.support.service import EXAMPLES, WorkOff, adaptation_body, error_of
from tests.support.tables import contents

CONFIG = (
    '<View><Text name="text" value="$message"/><Choices name="topic" toName="text" choice="single">'
    '<Choice value="billing"/><Choice value="login"/></Choices></View>'
)
PROJECT = "7.1732868571"


@pytest.fixture
def backend(client: httpx.Client, work_off: WorkOff) -> str:
    """The URL that is entered in Label Studio, of a tuned task."""
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    return f"/v1/tasks/{task_id}/label-studio"


def annotated(number: int, text: str | None, label: str, action: str = "ANNOTATION_CREATED", **fields: Any) -> Any:
    """Return a webhook of an annotation."""
    region = {"id": f"r{number}", "from_name": "topic", "to_name": "text", "type": "choices", "origin": "manual",
              "value": {"choices": [label]}}  # fmt: skip
    return {
        "action": action,
        "annotation": {"id": number, "completed_by": 1, "result": [region], "was_cancelled": False,
                       "ground_truth": False, "lead_time": 4.2, "task": 100 + number, "project": 7} | fields,
        "task": {"id": 100 + number, "data": {} if text is None else {"message": text}, "meta": {}, "is_labeled": True},
        "project": {"id": 7, "title": "Tickets", "label_config": CONFIG, "total_annotations_number": number},
    }  # fmt: skip


def predict_body(*texts: str | None) -> dict[str, Any]:
    tasks = [
        {
            "id": 100 + number,
            "data": {"other": 1} if text is None else {"message": text},
            "annotations": [],
            "project": 7,
        }
        for number, text in enumerate(texts)
    ]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "model_version": "old", "project": PROJECT, "label_config": CONFIG, "params": params}


def test_a_project_is_connected_with_a_key_in_basic_authentication(client: httpx.Client, backend: str) -> None:
    key = client.headers["authorization"].removeprefix("Bearer ")
    url = f"{client.base_url}{backend}"
    assert httpx.get(f"{url}/health", auth=("ipt", key)).json() == {"status": "UP", "model_class": "ipt"}
    assert httpx.get(f"{url}/health", auth=("ipt", "wrong")).status_code == 401
    assert httpx.get(f"{url}/health", headers={"authorization": "Basic !"}).status_code == 401
    body = {"project": PROJECT, "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "abc"}
    version = httpx.post(f"{url}/setup", json=body, auth=("ipt", key)).raise_for_status().json()["model_version"]
    assert version == f"{backend.split('/')[3]} version 1"


def test_annotators_see_predictions_and_a_task_without_text_is_named(client: httpx.Client, backend: str) -> None:
    texts = [EXAMPLES[0]["input"], None, EXAMPLES[-1]["input"]]
    answer = client.post(f"{backend}/predict", json=predict_body(*texts)).raise_for_status().json()
    predicted = client.post(f"{backend.removesuffix('/label-studio')}/predict", json={"inputs": [texts[0], texts[2]]})
    first, second = predicted.json()["predictions"]
    assert [each["result"][0]["value"]["choices"] if each["result"] else None for each in answer["results"]] == [
        [first["label"]],
        None,
        [second["label"]],
    ]
    region = answer["results"][0]["result"][0]
    assert (region["from_name"], region["to_name"], region["type"]) == ("topic", "text", "choices")
    assert answer["results"][0]["score"] == pytest.approx(first["scores"][first["label"]], abs=1e-4)
    assert answer["skipped"] == ["tasks[1] (id 101): no text in data.message"]
    refused = client.post(f"{backend}/predict", json=predict_body(None))
    assert (refused.status_code, error_of(refused)["param"]) == (422, "tasks[0].data.message")


def test_every_so_many_annotations_make_a_version(client: httpx.Client, backend: str, work_off: WorkOff) -> None:
    texts = [*(f"new text {number}" for number in range(15)), EXAMPLES[0]["input"]]
    for number, text in enumerate(texts):
        answer = client.post(f"{backend}/webhook", json=annotated(number, text, "login"))
        assert answer.status_code == 201
        assert (answer.json()["status"], answer.json()["annotations"]) == (
            ("kept", number + 1) if number < 15 else ("tuning", 0)
        )
    work_off()
    examples = client.get(f"{backend.removesuffix('label-studio')}examples").json()
    assert (examples["version"], examples["state"]) == (2, "succeeded")
    outputs = {row["input"]: row["output"] for row in examples["data"]}
    assert len(outputs) == len(EXAMPLES) + 15
    assert {outputs[text] for text in texts} == {"login"}, "a known text is relabelled"


def test_annotations_are_kept_changed_and_deleted_until_training_starts(
    client: httpx.Client, backend: str, work_off: WorkOff
) -> None:
    def send(body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = client.post(f"{backend}/webhook", json=body).raise_for_status().json()
        return answer

    start = {"action": "START_TRAINING", "project": {"id": 7, "label_config": CONFIG}}
    assert send(start) == {"status": "kept", "annotations": 0, "adaptation_id": None, "reason": None}
    send(annotated(1, "one", "login"))
    send(annotated(1, "one", "billing", "ANNOTATION_UPDATED"))
    send(annotated(2, "two", "login"))
    assert (
        send({"action": "ANNOTATION_DELETED", "annotation": {"id": 2}, "project": start["project"]})["annotations"] == 1
    )
    assert send(annotated(3, "three", "login", was_cancelled=True))["status"] == "ignored"
    assert send({"action": "PROJECT_UPDATED", "project": start["project"]})["status"] == "ignored"
    no_text = client.post(f"{backend}/webhook", json=annotated(4, None, "login"))
    assert (no_text.status_code, error_of(no_text)["param"]) == (422, "task.data.message")
    send(annotated(5, "five", "a new label"))
    waiting = send(start)
    assert (waiting["status"], waiting["annotations"]) == ("waiting", 2)
    assert "a new label" in waiting["reason"], "it has a single example"
    send(annotated(6, "six", "a new label"))
    assert send(start)["status"] == "tuning"
    work_off()
    examples = client.get(f"{backend.removesuffix('label-studio')}examples").json()
    assert examples["labels"] == {"billing": 5, "login": 4, "a new label": 2}


def test_waiting_annotations_are_exported_with_the_tenant_and_deleted_with_the_task(
    client: httpx.Client, backend: str, service_engine: Engine
) -> None:
    task_id = backend.split("/")[3]
    client.post(f"{backend}/webhook", json=annotated(1, "of an annotator", "login")).raise_for_status()
    with transaction(service_engine) as session:
        tenant_id = session.get_one(Task, task_id).tenant_id
        exported = [row for table, row in tenants.rows(session, tenant_id) if table == "tasks"]
    assert [row["annotations"] for row in exported] == [{"1": {"input": "of an annotator", "labels": ["login"]}}]
    assert "of an annotator" in str(contents(service_engine))
    client.delete(f"/v1/tasks/{task_id}").raise_for_status()
    assert "of an annotator" not in str(contents(service_engine))


@pytest.mark.parametrize(
    "config",
    [
        "<View>",
        '<View><Image name="i" value="$url"/><Choices name="c" toName="i"/></View>',
        '<!DOCTYPE x [<!ENTITY a "b">]><View/>',
        "not xml",
    ],
)
def test_a_configuration_without_choices_of_a_text_is_refused(client: httpx.Client, backend: str, config: str) -> None:
    response = client.post(f"{backend}/setup", json={"project": PROJECT, "schema": config})
    assert (response.status_code, error_of(response)["code"]) == (422, "label_config_not_supported")


def test_the_sdk_accepts_the_predictions(client: httpx.Client, backend: str) -> None:
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label-studio-sdk is not installed: it needs an older numpy"
    ).LabelInterface(CONFIG)
    from label_studio_sdk.label_interface.objects import PredictionValue

    answer = client.post(f"{backend}/predict", json=predict_body(EXAMPLES[0]["input"])).json()
    [prediction] = answer["results"]
    assert interface.validate_prediction(prediction)
    assert PredictionValue(**prediction).model_version == prediction["model_version"]
    choices = text_choices(CONFIG, "schema")
    assert (interface.get_control().name, interface.get_object().name) == (choices.from_name, choices.to_name)
