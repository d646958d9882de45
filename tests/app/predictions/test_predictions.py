"""`POST /v1/tasks/{id}/predict` and `POST /v1/predict`: versions, errors, and concurrent requests."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import Engine, text

import ipt
from app.db.models import SubspaceRow, TaskVersion
from app.db.session import transaction
from app.subspaces import repository as subspaces
from tests.support.service import EXAMPLES, Serve, WorkOff, adaptation_body, error_of

NewTask = Callable[..., str]


@pytest.fixture
def new_task(client: httpx.Client, work_off: WorkOff) -> NewTask:
    """Create a task, tune it, and return its id."""

    def new_task(**changes: object) -> str:
        task_id = client.post("/v1/adaptations", json=adaptation_body(**changes)).json()["task_id"]
        work_off()
        return str(task_id)

    return new_task


def test_predictions_have_a_label_and_all_probabilities(client: httpx.Client, new_task: NewTask) -> None:
    task_id = new_task()
    response = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": ["i was charged twice", "password is lost"]})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["task_id"], answer["task_version"]) == (task_id, 1)
    assert len(answer["predictions"]) == 2
    for prediction in answer["predictions"]:
        assert set(prediction) == {"label", "scores", "in_scope"}
        assert set(prediction["scores"]) == {"billing", "login"}
        assert abs(sum(prediction["scores"].values()) - 1) < 1e-4
        assert prediction["label"] == max(prediction["scores"], key=prediction["scores"].__getitem__)
    assert float(response.headers["x-queue-time"]) >= 0
    assert float(response.headers["x-inference-time"]) > 0


def test_a_truncated_text_is_marked(client: httpx.Client, new_task: NewTask) -> None:
    task_id = new_task()
    inputs = ["good " * 400, "good"]
    [truncated, complete] = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": inputs}).json()["predictions"]
    assert truncated["truncated"] is True
    assert "truncated" not in complete
    requests = [{"task_id": task_id, "input": text} for text in reversed(inputs)]
    [complete, truncated] = client.post("/v1/predict", json={"requests": requests}).json()["predictions"]
    assert truncated["truncated"] is True
    assert "truncated" not in complete


def test_predictions_equal_those_of_the_python_api(
    client: httpx.Client,
    new_task: NewTask,
    service_engine: Engine,
    tiny_core: tuple[ipt.Backbone, ipt.Subspace],
) -> None:
    task_id = new_task()
    vector = client.get(f"/v1/tasks/{task_id}/vector").json()["vector"]
    with transaction(service_engine) as session:
        row = session.get_one(TaskVersion, (task_id, 1))
        head = ipt.TaskHead(vector, row.subspace_id, row.kind, tuple(row.labels), row.readout)
    [expected] = ipt.Predictor(*tiny_core).predict([(head, "the invoice is wrong")])
    answer = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": ["the invoice is wrong"]}).json()
    assert answer["predictions"][0]["scores"] == pytest.approx(expected.scores, abs=1e-5)


def test_a_queued_version_does_not_answer(client: httpx.Client, new_task: NewTask) -> None:
    task_id = new_task()
    path = f"/v1/tasks/{task_id}/predict"
    examples = [{**example, "output": example["output"].upper()} for example in EXAMPLES]
    assert client.post(path, json={"inputs": ["hello"]}).json()["task_version"] == 1
    body = adaptation_body(task_id=task_id, examples=examples)
    del body["name"]
    client.post("/v1/adaptations", json=body)
    assert client.post(path, json={"inputs": ["hello"]}).json()["task_version"] == 1


def test_the_newest_version_answers_unless_another_is_named(
    client: httpx.Client, new_task: NewTask, work_off: WorkOff
) -> None:
    task_id = new_task()
    path = f"/v1/tasks/{task_id}/predict"
    client.post(path, json={"inputs": ["hello"]})
    body = adaptation_body(task_id=task_id, examples=[{**row, "output": row["output"].upper()} for row in EXAMPLES])
    del body["name"]
    client.post("/v1/adaptations", json=body)
    work_off()
    newest = client.post(path, json={"inputs": ["hello"]}).json()
    assert (newest["task_version"], newest["predictions"][0]["label"].isupper()) == (2, True)
    first = client.post(path, json={"inputs": ["hello"], "version": 1}).json()
    assert (first["task_version"], first["predictions"][0]["label"].isupper()) == (1, False)
    response = client.post(path, json={"inputs": ["hello"], "version": 3})
    assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")


def test_an_untuned_task_is_not_ready(client: httpx.Client) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    response = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": ["hello"]})
    assert (response.status_code, error_of(response)["code"]) == (409, "task_not_ready")
    many = {"requests": [{"task_id": task_id, "input": "hello"}]}
    assert error_of(client.post("/v1/predict", json=many))["param"] == "requests[0].task_id"


def test_one_request_may_name_many_tasks(client: httpx.Client, new_task: NewTask) -> None:
    shouting = [{**example, "output": example["output"].upper()} for example in EXAMPLES]
    quiet, loud = new_task(), new_task(examples=shouting)
    questions = [(quiet, "my card was charged"), (loud, "my card was charged"), (quiet, "i can not login")]
    requests = [{"task_id": task_id, "input": text} for task_id, text in questions]
    predictions = client.post("/v1/predict", json={"requests": requests}).json()["predictions"]
    assert [prediction["label"].isupper() for prediction in predictions] == [False, True, False]
    for (task_id, question), prediction in zip(questions, predictions, strict=True):
        single = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": [question]}).json()
        assert single["predictions"][0]["scores"] == pytest.approx(prediction["scores"], abs=1e-5)


def test_an_unknown_task_among_many_is_named(client: httpx.Client, new_task: NewTask) -> None:
    requests = [{"task_id": new_task(), "input": "hello"}, {"task_id": "tsk_unknown", "input": "hello"}]
    response = client.post("/v1/predict", json={"requests": requests})
    assert (response.status_code, error_of(response)["param"]) == (404, "requests[1].task_id")


def test_concurrent_requests_get_their_own_answers(client: httpx.Client, new_task: NewTask) -> None:
    tasks = [
        new_task(examples=[{**example, "output": f"{example['output']} {n}"} for example in EXAMPLES]) for n in range(4)
    ]

    def ask(number: int) -> bool:
        inputs = ["refund please", "login error", "i was charged twice"][: 1 + number % 3]
        response = client.post(f"/v1/tasks/{tasks[number % 4]}/predict", json={"inputs": inputs})
        labels = [prediction["label"] for prediction in response.json()["predictions"]]
        return len(labels) == len(inputs) and all(label.endswith(f" {number % 4}") for label in labels)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(80)))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [""]}, "inputs[0]"),
        ({"inputs": ["fine", "  "]}, "inputs[1]"),
        ({"inputs": [1]}, "inputs[0]"),
        ({"inputs": "text"}, "inputs"),
        ({"inputs": ["nul \0"]}, "inputs[0]"),
        ({"inputs": ["x"] * 257}, "inputs"),
        ({"inputs": ["x" * 10_001]}, "inputs[0]"),
        ({"inputs": ["x"], "version": 0}, "version"),
        ({"inputs": ["x"], "version": "1"}, "version"),
        ({"inputs": ["x"], "version": 10**30}, "version"),
        ({"inputs": ["x"], "other": 1}, "other"),
        ({}, "inputs"),
    ],
)
def test_invalid_inputs_are_named(client: httpx.Client, body: object, param: str) -> None:
    response = client.post("/v1/tasks/tsk_any/predict", json=body)
    assert (response.status_code, error_of(response)["param"]) == (422, param)


@pytest.fixture
def damage(service_engine: Engine) -> Callable[[str, str], None]:
    """Overwrite a column of a task's first version in the database."""

    def damage(task_id: str, assignment: str) -> None:
        with transaction(service_engine) as session:
            session.execute(text(f"UPDATE task_versions SET {assignment} WHERE task_id = :id"), {"id": task_id})

    return damage


@pytest.mark.parametrize(
    "assignment",
    [
        "readout = NULL",
        "readout = substring(readout for 40)",
        "readout = decode('ffffffffffffff7f', 'hex')",
        "vector = '[1,2,3]'",
        "labels = '[\"one\"]'",
    ],
)
def test_a_damaged_task_fails_and_others_answer(
    client: httpx.Client, new_task: NewTask, damage: Callable[[str, str], None], assignment: str
) -> None:
    broken, sound = new_task(), new_task()
    damage(broken, assignment)
    with ThreadPoolExecutor(2) as pool:
        paths = (f"/v1/tasks/{task_id}/predict" for task_id in (broken, sound))
        failed, answered = pool.map(lambda path: client.post(path, json={"inputs": ["hi"]}), paths)
    assert (failed.status_code, error_of(failed)["code"]) == (409, "task_damaged")
    assert answered.status_code == 200


def test_a_vector_of_another_subspace_is_rejected(
    client: httpx.Client, new_task: NewTask, damage: Callable[[str, str], None], service_engine: Engine
) -> None:
    task_id = new_task()
    with transaction(service_engine) as session:
        if not subspaces.is_registered(session, "sub_other"):
            session.add(SubspaceRow(id="sub_other", intrinsic_dim=8, prompt_length=4, hidden_size=32, manifest={}))
    damage(task_id, "subspace_id = 'sub_other'")
    response = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": ["hello"]})
    assert (response.status_code, error_of(response)["code"]) == (409, "subspace_mismatch")
    with transaction(service_engine) as session:
        session.execute(text("DELETE FROM task_versions WHERE subspace_id = 'sub_other'"))
        session.execute(text("DELETE FROM subspaces WHERE id = 'sub_other'"))


def test_a_service_without_a_model_reports_why(serve: Serve) -> None:
    with serve(wait=False, backbone="/nowhere") as client:
        while client.get("/readyz").json()["checks"]["model"] == "loading":
            pass
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "/nowhere" in ready.json()["error"]["message"]
        assert client.get("/healthz").status_code == 200
        response = client.post("/v1/tasks/tsk_any/predict", json={"inputs": ["hello"]})
        assert (response.status_code, error_of(response)["code"]) == (503, "model_failed")
        assert int(response.headers["retry-after"]) > 0


def test_the_garbage_collector_ignores_objects_from_startup(serve: Serve) -> None:
    with serve():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
