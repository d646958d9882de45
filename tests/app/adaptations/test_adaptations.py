"""`/v1/adaptations`: create, list, follow and cancel adaptations."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import Engine, delete, event, func, select, update

from app.db.models import Adaptation, Dataset, SubspaceRow, Task, Worker
from app.db.session import transaction
from app.queue import workers
from tests.support.service import EXAMPLES, Serve, WorkOff, adaptation_body, error_of


def _count(engine: Engine, table: type[Adaptation] | type[Dataset] | type[Task]) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_new_adaptation_is_queued_and_located(client: httpx.Client) -> None:
    response = client.post("/v1/adaptations", json=adaptation_body(metadata={"source": "mail"}))
    assert response.status_code == 202
    adaptation = response.json()
    assert (adaptation["object"], adaptation["state"], adaptation["task_version"], adaptation["kind"]) == (
        "adaptation",
        "queued",
        1,
        "classification",
    )
    assert adaptation["metadata"] == {"source": "mail"}
    assert adaptation["progress"] == {"step": 0, "steps": 1}
    assert adaptation["error"] is adaptation["metrics"] is adaptation["started_at"] is adaptation["finished_at"] is None
    assert client.get(response.headers["location"]).json() == adaptation


def test_a_text_with_two_labels_causes_a_warning_with_its_places(client: httpx.Client, work_off: WorkOff) -> None:
    noisy = [*EXAMPLES, EXAMPLES[1], EXAMPLES[5] | {"output": "billing"}]
    validation = [{"input": f" {EXAMPLES[0]['input']}", "output": "login"}]
    adaptation = client.post(
        "/v1/adaptations", json=adaptation_body(examples=noisy, validation_examples=validation)
    ).json()
    warning, repeated, shared = adaptation["warnings"]
    assert repeated.startswith("1 of 11 examples repeat the text of an earlier one")
    assert shared.startswith("1 of 1 validation examples are also among the training examples")
    assert "different labels in examples[9] and examples[5], validation_examples[0] and examples[0]:" in warning
    work_off()
    assert client.get(f"/v1/adaptations/{adaptation['id']}").json()["warnings"][0] == warning
    last = client.get(f"/v1/adaptations/{adaptation['id']}/events").json()["data"][-1]
    assert last["data"]["warnings"][0] == warning
    many = [*EXAMPLES, *(example | {"output": "other"} for example in EXAMPLES)]
    [warning] = client.post("/v1/adaptations", json=adaptation_body(examples=many)).json()["warnings"]
    assert "examples[12] and examples[4], and 3 more" in warning
    assert client.post("/v1/adaptations", json=adaptation_body()).json()["warnings"] == []


def test_an_adaptation_is_committed_before_the_response_is_sent(client: httpx.Client, service_engine: Engine) -> None:
    for number in range(1, 6):
        client.post("/v1/adaptations", json=adaptation_body())
        assert _count(service_engine, Adaptation) == number


def test_all_hyperparameters_are_returned_and_an_automatic_seed_is_drawn(client: httpx.Client) -> None:
    body = adaptation_body(hyperparameters={"seed": "auto", "steps": 7})
    seeds = set()
    for _ in range(3):
        hyperparameters = client.post("/v1/adaptations", json=body).json()["hyperparameters"]
        assert set(hyperparameters) == {"steps", "learning_rate", "batch_size", "restarts", "seed"}
        assert hyperparameters["steps"] == 7
        seeds.add(hyperparameters["seed"])
    assert len(seeds) == 3


def test_the_same_key_and_body_return_the_same_adaptation(client: httpx.Client, service_engine: Engine) -> None:
    headers = {"Idempotency-Key": "order-66"}
    first = client.post("/v1/adaptations", json=adaptation_body(), headers=headers)
    again = client.post("/v1/adaptations", json=adaptation_body(), headers=headers)
    assert again.status_code == 202
    assert again.json() == first.json()
    reordered = client.post("/v1/adaptations", json=dict(reversed(adaptation_body().items())), headers=headers)
    assert reordered.json() == first.json()
    with_defaults = adaptation_body(hyperparameters=first.json()["hyperparameters"])
    assert client.post("/v1/adaptations", json=with_defaults, headers=headers).status_code == 409
    other = client.post("/v1/adaptations", json=adaptation_body(name="other"), headers=headers)
    assert other.status_code == 409
    assert error_of(other)["code"] == "idempotency_key_reused"
    assert (_count(service_engine, Adaptation), _count(service_engine, Task)) == (1, 1)


def test_concurrent_requests_with_one_key_create_one_adaptation(client: httpx.Client, service_engine: Engine) -> None:
    answers: list[httpx.Response] = []

    def post() -> None:
        headers = {"Idempotency-Key": "race"}
        answers.append(client.post("/v1/adaptations", json=adaptation_body(), headers=headers))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert _count(service_engine, Adaptation) == 1


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "race"}, {}], ids=["the same key", "no key"])
def test_more_concurrent_requests_than_threads_and_connections_succeed(
    client: httpx.Client, service_engine: Engine, headers: dict[str, str]
) -> None:
    number = 120  # FastAPI has 40 threads, and the pool 20 connections
    arrived = threading.Barrier(number)

    def post(_: int) -> httpx.Response:
        arrived.wait()
        return client.post("/v1/adaptations", json=adaptation_body(), headers=headers)

    client._transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=number))
    with ThreadPoolExecutor(number) as pool:
        answers = list(pool.map(post, range(number)))
    assert [answer.status_code for answer in answers] == [202] * number
    assert _count(service_engine, Adaptation) == len({answer.json()["id"] for answer in answers})
    assert _count(service_engine, Adaptation) == (1 if headers else number)


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ümlaut".encode()])
def test_an_invalid_idempotency_key_is_rejected(client: httpx.Client, key: str | bytes) -> None:
    response = client.post("/v1/adaptations", json=adaptation_body(), headers=[("Idempotency-Key", key)])
    assert response.status_code == 422
    assert error_of(response)["param"] == "idempotency-key"


def test_equal_datasets_are_stored_once(client: httpx.Client, service_engine: Engine) -> None:
    for _ in range(3):
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
    assert (_count(service_engine, Adaptation), _count(service_engine, Dataset)) == (3, 1)


def test_a_task_id_instead_of_a_name_creates_a_new_version(client: httpx.Client, work_off: WorkOff) -> None:
    first = client.post("/v1/adaptations", json=adaptation_body()).json()
    body = adaptation_body(task_id=first["task_id"])
    del body["name"]
    second = client.post("/v1/adaptations", json=body).json()
    assert (second["task_id"], second["task_version"]) == (first["task_id"], 2)
    work_off()
    task = client.get(f"/v1/tasks/{first['task_id']}").json()
    assert task["version"] == 2
    assert [version["version"] for version in task["versions"]] == [1, 2]
    runs = client.get("/v1/adaptations", params={"task_id": first["task_id"]}).json()["data"]
    assert [run["id"] for run in runs] == [second["id"], first["id"]]


def test_two_tasks_may_have_the_same_name(client: httpx.Client) -> None:
    tasks = {client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"] for _ in range(2)}
    assert len(tasks) == 2


def test_a_body_needs_either_a_name_or_a_task_id(client: httpx.Client) -> None:
    for body in (adaptation_body(task_id="tsk_1"), {"examples": EXAMPLES}):
        assert error_of(client.post("/v1/adaptations", json=body))["code"] == "invalid_value"


def test_unknown_tasks_and_subspaces_are_not_found(client: httpx.Client, service_engine: Engine) -> None:
    body = adaptation_body(task_id="tsk_unknown")
    del body["name"]
    response = client.post("/v1/adaptations", json=body)
    assert (response.status_code, error_of(response)["param"]) == (404, "task_id")
    response = client.post("/v1/adaptations", json=adaptation_body(subspace="sub_unknown"))
    assert (response.status_code, error_of(response)["param"]) == (404, "subspace")
    assert _count(service_engine, Task) == _count(service_engine, Dataset) == 0


def test_a_subspace_is_rejected_until_a_worker_serves_it(client: httpx.Client, service_engine: Engine) -> None:
    other = "sub_of_a_year_ago"
    with transaction(service_engine) as session:
        session.add(SubspaceRow(id=other, intrinsic_dim=4, prompt_length=2, hidden_size=8, manifest={}))
    try:
        body = adaptation_body(subspace=other)
        refused = client.post("/v1/adaptations", json=body)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "subspace_not_served")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/v1/tasks").json()["data"] == []
        with transaction(service_engine) as session:
            workers.announce(session, "worker-1", ["sub_own", other], jobs=0)
        accepted = client.post("/v1/adaptations", json=body)
        assert (accepted.status_code, accepted.json()["subspace_id"]) == (202, other)
        with transaction(service_engine) as session:
            session.execute(update(Worker).values(seen_at=func.now() - timedelta(seconds=workers.LIVE_SECONDS + 1)))
        assert client.post("/v1/adaptations", json=body).status_code == 503
    finally:
        with transaction(service_engine) as session:
            for table in (Worker, Adaptation):
                session.execute(delete(table))
            session.execute(delete(SubspaceRow).where(SubspaceRow.id == other))


def test_the_loaded_subspace_is_accepted(client: httpx.Client) -> None:
    listed = client.get("/v1/subspaces").json()["data"]
    assert len(listed) == 1
    assert listed[0]["loaded"]
    assert (listed[0]["intrinsic_dim"], listed[0]["prompt_length"], listed[0]["hidden_size"]) == (8, 4, 32)
    adaptation = client.post("/v1/adaptations", json=adaptation_body(subspace=listed[0]["id"])).json()
    assert adaptation["subspace_id"] == listed[0]["id"]


def test_pages_are_stable_while_adaptations_are_created(client: httpx.Client) -> None:
    ids = [client.post("/v1/adaptations", json=adaptation_body()).json()["id"] for _ in range(5)]
    first = client.get("/v1/adaptations", params={"limit": 2}).json()
    assert first["object"] == "list"
    assert [item["id"] for item in first["data"]] == [ids[4], ids[3]]
    assert first["has_more"]
    client.post("/v1/adaptations", json=adaptation_body())
    second = client.get("/v1/adaptations", params={"limit": 3, "after": ids[3]}).json()
    assert [item["id"] for item in second["data"]] == [ids[2], ids[1], ids[0]]
    assert not second["has_more"]
    assert error_of(client.get("/v1/adaptations", params={"after": "adp_unknown"}))["param"] == "after"


def test_a_page_continues_after_an_item_that_left_the_list(client: httpx.Client) -> None:
    ids = [client.post("/v1/adaptations", json=adaptation_body()).json()["id"] for _ in range(4)]
    first = client.get("/v1/adaptations", params={"state": "queued", "limit": 2}).json()
    client.post(f"/v1/adaptations/{ids[2]}/cancel")
    for after in (ids[2], first["next"]):
        rest = client.get("/v1/adaptations", params={"state": "queued", "after": after}).json()
        assert [item["id"] for item in rest["data"]] == [ids[1], ids[0]]
        assert rest["next"] is None
    for invalid in (f"{ids[2]}.", f"{ids[2]}.{10**17}", ".1"):
        assert client.get("/v1/adaptations", params={"after": invalid}).status_code == 404


def test_adaptations_are_listed_by_state(client: httpx.Client, work_off: WorkOff) -> None:
    done = client.post("/v1/adaptations", json=adaptation_body()).json()["id"]
    work_off()
    waiting = client.post("/v1/adaptations", json=adaptation_body()).json()["id"]
    for state, expected in (("succeeded", [done]), ("queued", [waiting]), ("failed", [])):
        listed = client.get("/v1/adaptations", params={"state": state}).json()["data"]
        assert [item["id"] for item in listed] == expected
    assert client.get("/v1/adaptations", params={"state": "lost"}).status_code == 422


def test_a_queued_adaptation_is_cancelled_at_once_and_stays_so(client: httpx.Client) -> None:
    path = f"/v1/adaptations/{client.post('/v1/adaptations', json=adaptation_body()).json()['id']}"
    for _ in range(2):
        response = client.post(f"{path}/cancel")
        assert response.status_code == 200
        assert response.json()["state"] == "cancelled"
    assert client.get(path).json()["finished_at"] is not None


def test_a_succeeded_adaptation_cannot_be_cancelled(client: httpx.Client, work_off: WorkOff) -> None:
    client.post("/v1/adaptations", json=adaptation_body())
    [done] = work_off()
    response = client.post(f"/v1/adaptations/{done}/cancel")
    assert (response.status_code, error_of(response)["code"]) == (409, "adaptation_finished")


def test_events_are_listed_in_pages(client: httpx.Client, work_off: WorkOff) -> None:
    client.post("/v1/adaptations", json=adaptation_body())
    [done] = work_off()
    events = client.get(f"/v1/adaptations/{done}/events").json()["data"]
    assert [(event["seq"], event["type"]) for event in events] == [(1, "queued"), (2, "running"), (3, "succeeded")]
    page = client.get(f"/v1/adaptations/{done}/events", params={"after": 1, "limit": 1}).json()
    assert [event["seq"] for event in page["data"]] == [2]
    assert page["has_more"]
    rest = client.get(f"/v1/adaptations/{done}/events", params={"after": page["next"]}).json()
    assert [event["seq"] for event in rest["data"]] == [3]


def test_a_finished_adaptation_reports_its_metrics(client: httpx.Client, work_off: WorkOff) -> None:
    client.post("/v1/adaptations", json=adaptation_body())
    [done] = work_off()
    adaptation = client.get(f"/v1/adaptations/{done}").json()
    assert adaptation["state"] == "succeeded"
    assert {"score", "start_score", "baseline_score"} <= set(adaptation["metrics"])
    assert adaptation["subspace_id"].startswith("sub_")
    assert adaptation["attempt"] == 1


def test_unknown_adaptations_are_not_found(client: httpx.Client) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        response = client.request(method, f"/v1/adaptations/adp_unknown{path}")
        assert (response.status_code, error_of(response)["code"]) == (404, "adaptation_not_found")


def test_creating_an_adaptation_needs_no_model(serve: Serve) -> None:
    with serve(wait=False, backbone="/nowhere") as client:
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202


def test_a_broken_broker_does_not_fail_the_request(serve: Serve) -> None:
    with serve(redis_url="redis://127.0.0.1:1/0") as client:
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202


def test_states_are_literals_in_statements(client: httpx.Client) -> None:
    """A prepared plan with the state as a parameter cannot use the partial indexes of one state."""
    statements: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        client.get("/v1/adaptations", params={"state": "failed"})
        client.post("/v1/adaptations", json=adaptation_body())
    finally:
        event.remove(Engine, "before_cursor_execute", record)
    for state in ("failed", "queued", "running"):
        assert any(f"state = '{state}'" in statement for statement in statements)
