"""`in_scope`, and answers without a label: `min_score` and `min_in_scope`."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, update

import ipt
from app.cli.root import run
from app.db.models import TaskVersion
from app.db.session import transaction
from tests.support.service import EXAMPLES, WorkOff, adaptation_body, error_of

INPUTS = ["i was charged twice", "the weather is fine"]


@pytest.fixture
def task(client: httpx.Client, work_off: WorkOff) -> str:
    """The id of a tuned task."""
    task_id: str = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    return task_id


@pytest.fixture
def predict(client: httpx.Client, task: str) -> Callable[..., list[dict[str, Any]]]:
    """Predict for the inputs, by either route."""

    def predict(**options: Any) -> list[dict[str, Any]]:
        answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": INPUTS, **options})
        requests = [{"task_id": task, "input": text} for text in INPUTS]
        of_many = client.post("/v1/predict", json={"requests": requests, **options}).json()["predictions"]
        predictions: list[dict[str, Any]] = answer.raise_for_status().json()["predictions"]
        for prediction, other in zip(predictions, of_many, strict=True):
            assert (prediction["label"], prediction.get("reason")) == (other["label"], other.get("reason"))
        return predictions

    return predict


def test_every_prediction_has_the_probability_of_any_label(
    predict: Callable[..., list[dict[str, Any]]], task: str, service_engine: Engine,
    tiny_core: tuple[ipt.Backbone, ipt.Subspace],
) -> None:  # fmt: skip
    with transaction(service_engine) as session:
        row = session.get_one(TaskVersion, (task, 1))
        head = ipt.TaskHead(row.vector, row.subspace_id, row.kind, tuple(row.labels), row.readout, row.scope)
    expected = ipt.Predictor(*tiny_core).predict([(head, text) for text in INPUTS])
    in_scope = [prediction["in_scope"] for prediction in predict()]
    assert in_scope == pytest.approx([prediction.in_scope for prediction in expected], abs=1e-4)
    assert in_scope[0] > in_scope[1]


def test_below_a_threshold_the_label_is_null_with_a_reason(predict: Callable[..., list[dict[str, Any]]]) -> None:
    usual = predict()
    middle = sum(prediction["in_scope"] for prediction in usual) / 2
    [kept, refused] = predict(min_in_scope=middle)
    assert (kept["label"], kept["in_scope"]) == (usual[0]["label"], pytest.approx(usual[0]["in_scope"]))
    assert "reason" not in kept
    assert (refused["label"], refused["reason"]) == (None, "out_of_scope")
    assert refused["scores"] == pytest.approx(usual[1]["scores"])
    for prediction in predict(min_score=1, min_in_scope=0, top_k=1):
        assert (prediction["label"], prediction["reason"], len(prediction["scores"])) == (None, "low_score", 1)


def test_a_task_keeps_thresholds_for_requests_without_any(
    client: httpx.Client, task: str, predict: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    changed = client.patch(f"/v1/tasks/{task}", json={"min_in_scope": 1.0}).raise_for_status().json()
    assert (changed["min_score"], changed["min_in_scope"]) == (None, 1.0)
    assert [prediction["label"] for prediction in predict()] == [None, None]
    assert all(prediction["label"] for prediction in predict(min_in_scope=None)), "null in a request means none"
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    options = ["--min-score", "0.1", "--min-in-scope", "0", "--url", str(client.base_url)]
    assert run(["tasks", "thresholds", task, *options]) == 0
    assert "min_score 0.1, min_in_scope 0" in capsys.readouterr().out
    assert all(prediction["label"] for prediction in predict())
    assert client.patch(f"/v1/tasks/{task}", json={"min_score": 1.5}).status_code == 422


def test_a_version_of_an_earlier_release_answers_without_the_probability(
    client: httpx.Client, task: str, service_engine: Engine
) -> None:
    with transaction(service_engine) as session:
        session.execute(update(TaskVersion).where(TaskVersion.task_id == task).values(scope=None))
    path = f"/v1/tasks/{task}/predict"
    [prediction] = client.post(path, json={"inputs": INPUTS[:1], "min_score": 0.1}).json()["predictions"]
    assert set(prediction) == {"label", "scores"}
    response = client.post(path, json={"inputs": INPUTS, "min_in_scope": 0.5})
    assert (response.status_code, error_of(response)["code"]) == (409, "scope_not_available")
    assert error_of(response)["param"] == "min_in_scope"


def test_classification_by_examples_refuses_texts_too(client: httpx.Client) -> None:
    body = {"examples": EXAMPLES, "inputs": INPUTS, "min_in_scope": 1.0}
    for prediction in client.post("/v1/classify", json=body).raise_for_status().json()["predictions"]:
        assert (prediction["label"], prediction["reason"]) == (None, "out_of_scope")


def test_the_command_line_says_why_there_is_no_label(
    client: httpx.Client, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    assert run(["predict", task, *INPUTS, "--min-in-scope", "1", "--url", str(client.base_url)]) == 0
    assert capsys.readouterr().out.count("– (out of scope)") == 2
