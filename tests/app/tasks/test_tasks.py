"""`/v1/tasks`: list, compare and delete tasks."""

from collections.abc import Callable

import httpx
from sqlalchemy import Engine, event, func, select

from app.db.models import AdaptationEvent, Dataset, TaskVersion
from app.db.session import transaction
from tests.support.service import WorkOff, adaptation_body, error_of


def _adapt(client: httpx.Client, **changes: object) -> str:
    return str(client.post("/v1/adaptations", json=adaptation_body(**changes)).json()["task_id"])


def test_a_task_exists_before_it_can_answer(client: httpx.Client) -> None:
    task_id = _adapt(client)
    task = client.get(f"/v1/tasks/{task_id}").json()
    assert (task["object"], task["name"], task["version"], task["versions"]) == ("task", "tickets", None, [])
    assert task["version_count"] == 0
    assert client.get(f"/v1/tasks/{task_id}/versions").json()["data"] == []
    for path in ("vector", "neighbors"):
        response = client.get(f"/v1/tasks/{task_id}/{path}")
        assert (response.status_code, error_of(response)["code"]) == (409, "task_not_ready")


def test_a_tuned_task_has_labels_metrics_and_a_vector(client: httpx.Client, work_off: WorkOff) -> None:
    task_id = _adapt(client)
    [adaptation_id] = work_off()
    [listed] = client.get("/v1/tasks").json()["data"]
    assert listed == client.get(f"/v1/tasks/{task_id}").json()
    [version] = listed["versions"]
    assert (version["version"], version["labels"], version["adaptation_id"]) == (1, ["billing", "login"], adaptation_id)
    vector = client.get(f"/v1/tasks/{task_id}/vector").json()
    assert len(vector["vector"]) == 8
    assert vector["subspace_id"] == version["subspace_id"]
    assert client.get(f"/v1/tasks/{task_id}/vector", params={"version": 1}).json() == vector
    response = client.get(f"/v1/tasks/{task_id}/vector", params={"version": 2})
    assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")


def test_tasks_are_listed_in_pages(client: httpx.Client) -> None:
    ids = [_adapt(client) for _ in range(3)]
    first = client.get("/v1/tasks", params={"limit": 2}).json()
    second = client.get("/v1/tasks", params={"limit": 2, "after": ids[1]}).json()
    assert [task["id"] for task in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    client.delete(f"/v1/tasks/{ids[1]}")
    assert client.get("/v1/tasks", params={"after": first["next"]}).json()["data"] == second["data"]
    assert client.get("/v1/tasks", params={"after": ids[1]}).status_code == 404


def test_a_task_is_shown_with_few_versions_and_all_are_listed_in_pages(
    client: httpx.Client, new_client: Callable[[], httpx.Client], work_off: WorkOff
) -> None:
    task_id, other = _adapt(client), _adapt(client, name="other")
    again = adaptation_body(task_id=task_id)
    del again["name"]
    for _ in range(12):
        client.post("/v1/adaptations", json=again)
    work_off()
    loaded: list[int] = []

    def record(version: TaskVersion, _: object) -> None:
        loaded.append(version.version)

    event.listen(TaskVersion, "load", record)
    try:
        task = client.get(f"/v1/tasks/{task_id}").json()
        assert (task["version"], task["version_count"]) == (13, 13)
        assert [version["version"] for version in task["versions"]] == list(range(4, 14))
        assert len(loaded) == 10
        loaded.clear()
        listed = {item["id"]: item for item in client.get("/v1/tasks").json()["data"]}
        assert [version["version"] for version in listed[task_id]["versions"]] == [13]
        assert [version["version"] for version in listed[other]["versions"]] == [1]
        assert (listed[task_id]["version_count"], listed[other]["version_count"]) == (13, 1)
        assert len(loaded) == 2
        loaded.clear()
        path = f"/v1/tasks/{task_id}/versions"
        pages = [client.get(path, params={"limit": 5}).json()]
        assert len(loaded) == 6
    finally:
        event.remove(TaskVersion, "load", record)
    while pages[-1]["has_more"]:
        pages.append(client.get(path, params={"limit": 5, "after": pages[-1]["next"]}).json())
    versions = [version for page in pages for version in page["data"]]
    assert [len(page["data"]) for page in pages] == [5, 5, 3]
    assert pages[-1]["next"] is None
    assert [version["version"] for version in versions] == list(range(13, 0, -1))
    assert versions[:10] == task["versions"][::-1]
    assert client.get(path, params={"after": 1}).json()["data"] == []
    assert new_client().get(path).status_code == 404


def test_neighbors_are_the_tenants_most_similar_newest_versions(
    client: httpx.Client, new_client: Callable[[], httpx.Client], work_off: WorkOff, service_engine: Engine
) -> None:
    task, near, far, waiting = (_adapt(client, name=name) for name in ("task", "near", "far", "waiting"))
    client.post(f"/v1/adaptations/{client.get('/v1/adaptations').json()['data'][0]['id']}/cancel")
    again = adaptation_body(task_id=near)
    del again["name"]
    client.post("/v1/adaptations", json=again)
    _adapt(new_client())
    work_off()
    with transaction(service_engine) as session:
        first, second = [1.0] + [0.0] * 7, [0.0, 1.0] + [0.0] * 6
        slanted = [1.0, 0.5] + [0.0] * 6
        for task_id, version, vector in ((task, 1, first), (near, 1, second), (near, 2, slanted), (far, 1, second)):
            session.get_one(TaskVersion, (task_id, version)).vector = vector
    neighbors = client.get(f"/v1/tasks/{task}/neighbors").json()
    assert [(item["task_id"], item["task_version"]) for item in neighbors["data"]] == [(near, 2), (far, 1)]
    assert abs(neighbors["data"][0]["similarity"] - 1 / 1.25**0.5) < 1e-6
    assert abs(neighbors["data"][1]["similarity"]) < 1e-6
    assert not neighbors["has_more"]
    assert client.get(f"/v1/tasks/{task}/neighbors", params={"limit": 1}).json()["has_more"]
    assert waiting not in str(neighbors)


def test_the_zero_vector_has_no_neighbors_and_is_no_neighbor(
    client: httpx.Client, work_off: WorkOff, service_engine: Engine
) -> None:
    task, average, opposite = (_adapt(client, name=name) for name in ("task", "average", "opposite"))
    work_off()
    with transaction(service_engine) as session:
        for task_id, first in ((task, 1.0), (average, 0.0), (opposite, -1.0)):
            session.get_one(TaskVersion, (task_id, 1)).vector = [first] + [0.0] * 7
    [neighbor] = client.get(f"/v1/tasks/{task}/neighbors").json()["data"]
    assert (neighbor["task_id"], neighbor["similarity"]) == (opposite, -1.0)
    assert client.get(f"/v1/tasks/{average}/neighbors").json()["data"] == []


def test_deleting_a_task_deletes_everything_that_depends_on_it(
    client: httpx.Client, work_off: WorkOff, service_engine: Engine
) -> None:
    task_id = _adapt(client)
    [adaptation_id] = work_off()
    assert client.delete(f"/v1/tasks/{task_id}").json() == {"id": task_id, "object": "task", "deleted": True}
    assert client.delete(f"/v1/tasks/{task_id}").status_code == 404
    assert client.get(f"/v1/tasks/{task_id}").status_code == 404
    assert client.get(f"/v1/adaptations/{adaptation_id}").status_code == 404
    response = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": ["i was charged twice"]})
    assert response.status_code == 404
    with transaction(service_engine) as session:
        for table in (TaskVersion, AdaptationEvent, Dataset):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def test_a_dataset_in_use_is_not_deleted(client: httpx.Client, work_off: WorkOff) -> None:
    first, second = _adapt(client), _adapt(client)
    client.delete(f"/v1/tasks/{first}")
    assert len(work_off()) == 1
    assert client.get(f"/v1/tasks/{second}").json()["version"] == 1


def test_deleting_a_task_deletes_its_queued_adaptations(client: httpx.Client, work_off: WorkOff) -> None:
    client.delete(f"/v1/tasks/{_adapt(client)}")
    assert work_off() == []
    assert client.get("/v1/adaptations").json()["data"] == []
