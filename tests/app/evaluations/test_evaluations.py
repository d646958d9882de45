"""Reports of a version's own examples and of test sets, and the comparison of two versions."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine, delete

import ipt
from app.db.models import HeldOutRow
from app.db.session import transaction
from tests.support.service import EXAMPLES, WorkOff, adaptation_body, error_of

TEST_SET = [
    {"input": "i was charged for nothing", "output": "billing"},
    {"input": "my money is gone", "output": "billing"},
    {"input": "the login page is broken", "output": "Login"},
    {"input": "no password works", "output": "login"},
    {"input": "how is the weather", "output": "weather"},
]


@pytest.fixture
def adapt(client: httpx.Client, work_off: WorkOff) -> Callable[..., dict[str, Any]]:
    """Create an adaptation, tune it, and return it."""

    def adapt(**changes: Any) -> dict[str, Any]:
        created = client.post("/v1/adaptations", json=adaptation_body(**changes)).json()
        work_off()
        tuned: dict[str, Any] = client.get(f"/v1/adaptations/{created['id']}").raise_for_status().json()
        return tuned

    return adapt


def test_the_report_of_a_version_has_the_score_of_its_adaptation(
    client: httpx.Client, adapt: Callable[..., dict[str, Any]]
) -> None:
    tuned = adapt()
    answer = client.get(f"/v1/tasks/{tuned['task_id']}/versions/1/report").raise_for_status().json()
    metrics, report = tuned["metrics"], answer["report"]
    assert (answer["task_version"], answer["source"]) == (1, metrics["score_source"])
    assert report["rows"] == metrics["held_back"] == len(EXAMPLES)
    for name, metric in (("accuracy", "score"), ("accuracy_low", "score_low"), ("accuracy_high", "score_high")):
        assert report[name] == pytest.approx(metrics[metric])
    assert [each["label"] for each in report["labels"]] == ["billing", "login"]
    assert np.sum(report["confusion"]) == len(EXAMPLES)
    assert report["wrong_count"] == len(EXAMPLES) - np.trace(report["confusion"])
    for wrong in report["wrong"]:
        row = EXAMPLES[wrong["row"]]
        assert (wrong["input"], wrong["expected"]) == (row["input"], row["output"])
        assert wrong["predicted"] != row["output"]


def test_a_version_without_held_out_logits_says_what_to_do(
    client: httpx.Client, adapt: Callable[..., dict[str, Any]], service_engine: Engine
) -> None:
    task_id = adapt()["task_id"]
    with transaction(service_engine) as session:
        session.execute(delete(HeldOutRow).where(HeldOutRow.task_id == task_id))
    response = client.get(f"/v1/tasks/{task_id}/versions/1/report")
    assert (response.status_code, error_of(response)["code"]) == (409, "report_not_available")
    assert "evaluate" in error_of(response)["message"]
    assert client.get(f"/v1/tasks/{task_id}/versions/2/report").status_code == 404


def test_a_test_set_is_answered_as_predictions_are_and_unknown_labels_are_reported(
    client: httpx.Client, adapt: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.evaluations.service.ROWS_AT_ONCE", 2)
    task = f"/v1/tasks/{adapt()['task_id']}"
    in_json = client.post(f"{task}/evaluate", json={"examples": TEST_SET}).raise_for_status().json()
    predictions = client.post(f"{task}/predict", json={"inputs": [row["input"] for row in TEST_SET]}).json()
    predicted = [ipt.Prediction(each["label"], each["scores"]) for each in predictions["predictions"]]
    expected = ipt.report([ipt.Example(**row) for row in TEST_SET], predicted)
    report = in_json["report"]
    assert (in_json["task_version"], report["rows"], report["unknown_labels"]) == (1, 4, {"weather": 1})
    assert report["log_loss"] == pytest.approx(expected.log_loss, abs=1e-4)
    assert report["confusion"] == [list(row) for row in expected.confusion]
    lines = "\n".join(json.dumps(row) for row in TEST_SET)
    in_file = client.post(f"{task}/evaluate", files={"file": ("test.jsonl", lines)}).raise_for_status().json()
    assert in_file["source"]["file"]["format"] == "jsonl"
    assert in_file["report"]["confusion"] == report["confusion"]


def test_two_versions_are_compared_on_the_same_rows(client: httpx.Client, adapt: Callable[..., dict[str, Any]]) -> None:
    task_id = adapt()["task_id"]
    swapped = {"billing": "login", "login": "billing"}
    examples = [{**row, "output": swapped[row["output"]]} for row in EXAMPLES]
    body = {key: value for key, value in adaptation_body(examples=examples).items() if key != "name"}
    client.post("/v1/adaptations", json=body | {"task_id": task_id}).raise_for_status()
    adapt(name="to run the queue")
    answer = client.post(
        f"/v1/tasks/{task_id}/evaluate", json={"examples": EXAMPLES, "version": 1, "compare_with": 2}
    ).json()
    comparison = answer["comparison"]
    assert (answer["task_version"], comparison["version"], comparison["rows"]) == (1, 2, len(EXAMPLES))
    right, other_right = (round(report["accuracy"] * 8) for report in (answer["report"], comparison["report"]))
    assert comparison["only_this_right"] - comparison["only_other_right"] == right - other_right
    assert comparison["only_this_right"] > 4
    differing = comparison["only_this_right"], comparison["only_other_right"]
    assert comparison["p_value"] == ipt.compare([True] * differing[0] + [False] * differing[1],
                                                [False] * differing[0] + [True] * differing[1]).p_value  # fmt: skip


def test_bad_test_sets_are_rejected(client: httpx.Client, adapt: Callable[..., dict[str, Any]]) -> None:
    path = f"/v1/tasks/{adapt()['task_id']}/evaluate"
    first, unknown = json.dumps(TEST_SET[0]), json.dumps(TEST_SET[-1])

    def file(content: str, **fields: str) -> dict[str, Any]:
        return {"files": {"file": ("rows.jsonl", content)}, "data": fields}

    for options, status, code, param in (
        ({"json": {"examples": []}}, 422, "invalid_value", "examples"),
        (file(""), 422, "invalid_dataset_file", "file"),
        ({"json": {"examples": TEST_SET[-1:]}}, 422, "no_known_label", "examples"),
        ({"json": {"examples": [{"input": "x", "output": ["a"]}]}}, 422, "invalid_value", "examples[0].output"),
        (file(unknown), 422, "no_known_label", "file"),
        ({"json": {"examples": TEST_SET, "compare_with": 7}}, 404, "version_not_found", "version"),
        (file(first, version="x"), 422, "invalid_json", "version"),
        (file(first, name="tickets"), 422, "unknown_field", "name"),
        ({"files": {"file": ("a.jsonl", first), "validation_file": ("b.jsonl", first)}}, 422, "unknown_field",
         "validation_file"),
    ):  # fmt: skip
        response = client.post(path, **options)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
