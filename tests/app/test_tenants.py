"""No tenant can see, use or change another tenant's data: every route is tried, with foreign ids in every place.

A route, or a place for an id, that no attempt covers fails the test.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.foreign_requests import OPENAI, Attempt, Owner, attempts
from tests.support.service import EXAMPLES, WorkOff, adaptation_body

# Parameters that cannot name an object of a tenant.
HARMLESS_PARAMETERS = {"state", "limit", "version", "accept", "last-event-id", "order", "purpose"}
WITHOUT_TENANT = {("get", "/v1/subspaces"), ("get", "/healthz"), ("get", "/readyz")}

OPERATOR_ROUTES = {("get", "/metrics")}

Routes = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def owners(new_client: Callable[[], httpx.Client], work_off: WorkOff) -> tuple[Owner, Owner]:
    """Two tenants with the same kinds of objects."""

    def create_owner(word: str) -> Owner:
        client = new_client()
        examples = [{**example, "output": f"{word} {example['output']}"} for example in EXAMPLES]
        body = adaptation_body(name=word, examples=examples, metadata={"of": word})
        first = client.post("/v1/adaptations", json=body, headers={"Idempotency-Key": f"{word}-1"}).json()
        file = {"file": ("examples.jsonl", "\n".join(json.dumps(example) for example in examples))}
        file_id = client.post(f"{OPENAI}/files", data={"purpose": "fine-tune"}, files=file).json()["id"]
        job = {"model": "gpt-4o-mini", "training_file": file_id, "hyperparameters": {"n_epochs": 1}}
        headers = {"Idempotency-Key": f"{word}-job"}
        job_id = client.post(f"{OPENAI}/fine_tuning/jobs", json=job, headers=headers).json()["id"]
        line = {"custom_id": word, "method": "POST", "url": "/v1/completions", "body": {}}
        file = {"file": ("requests.jsonl", json.dumps(line))}
        batch_file_id = client.post(f"{OPENAI}/files", data={"purpose": "batch"}, files=file).json()["id"]
        batch = {"input_file_id": batch_file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
        batch_id = client.post(f"{OPENAI}/batches", json=batch).json()["id"]
        while client.get(f"{OPENAI}/batches/{batch_id}").json()["status"] != "completed":
            time.sleep(0.05)
        hook = {"name": word, "url": f"https://{word}.invalid", "event_types": ["batch.completed"]}
        hook_id = client.post(f"{OPENAI}/webhook_endpoints", json=hook).json()["id"]
        ids = (file_id, job_id, batch_file_id, batch_id, hook_id)
        return Owner(client, word, first["task_id"], [first["id"]], body, *ids)

    def adapt_again(owner: Owner) -> None:
        body = {key: value for key, value in owner.first_body.items() if key != "name"} | {"task_id": owner.task_id}
        owner.adaptation_ids.append(owner.client.post("/v1/adaptations", json=body).json()["id"])

    both = create_owner("alpaca"), create_owner("buffalo")
    for owner in both:
        adapt_again(owner)
    assert len(work_off()) == 6
    for owner in both:
        adapt_again(owner)
    return both


def routes_of(document: dict[str, Any]) -> Routes:
    return {(method, path): entry for path, methods in document["paths"].items() for method, entry in methods.items()}


def fields_of(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """Yield the names of all fields, at any depth."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield from schema.get("properties", {})
    items = [schema["items"]] if "items" in schema else []
    for part in (*schema.get("properties", {}).values(), *schema.get("anyOf", []), *items):
        yield from fields_of(part, document)


def not_attempted(
    document: dict[str, Any], attempted: dict[tuple[str, str], list[Attempt]]
) -> set[tuple[str, str, str]]:
    """Return the places for an id that no attempt covers, as (method, path, name); the name '' is the whole route."""
    missing = set()
    for (method, path), entry in routes_of(document).items():
        if (method, path) in WITHOUT_TENANT | OPERATOR_ROUTES:
            continue
        sent = attempted.get((method, path), [])
        if not sent:
            missing.add((method, path, ""))
        names = {parameter["name"] for parameter in entry.get("parameters", []) if parameter["in"] != "path"}
        for content in entry.get("requestBody", {}).get("content", {}).values():
            names |= {name for name in fields_of(content["schema"], document) if name.endswith(("id", "ids"))}
        text = json.dumps([attempt.options for attempt in sent]).lower()
        missing |= {(method, path, name) for name in names - HARMLESS_PARAMETERS if f'"{name}":' not in text}
    return missing


def test_the_data_of_another_tenant_does_not_exist(owners: tuple[Owner, Owner]) -> None:
    a, b = owners
    document = a.client.get("/openapi.json").json()
    attempted = attempts(a, b)
    assert not_attempted(document, attempted) == set()
    assert set(attempted) | WITHOUT_TENANT | OPERATOR_ROUTES == set(routes_of(document))
    before = a.everything()
    for (method, route), tries in attempted.items():
        for attempt in tries:
            response = b.client.request(method, attempt.path, **attempt.options)
            request = (method, attempt.path, attempt.options)
            assert response.status_code == 404 if attempt.outcome == "unknown" else response.is_success, request
            if attempt.outcome == "empty":
                assert response.json()["data"] == [], request
            content = response.text + str(response.headers)
            for secret in (a.word, a.task_id, a.file_id, a.job_id, a.batch_id, a.webhook_id, *a.adaptation_ids):
                assert secret not in content, (route, request)
    assert a.everything() == before
    prediction = a.client.post(f"/v1/tasks/{a.task_id}/predict", json={"inputs": ["hello"]}).json()
    assert a.word in prediction["predictions"][0]["label"]


def test_shared_routes_reveal_nothing_about_tenants(owners: tuple[Owner, Owner]) -> None:
    a, b = owners
    for method, path in WITHOUT_TENANT:
        responses = [owner.client.request(method, path) for owner in (a, b)]
        assert responses[0].json() == responses[1].json()
        assert a.word not in responses[1].text
        assert a.task_id not in responses[1].text


def test_operator_routes_reject_tenants(owners: tuple[Owner, Owner]) -> None:
    for method, path in OPERATOR_ROUTES:
        assert [owner.client.request(method, path).status_code for owner in owners] == [401, 401]


@pytest.mark.parametrize(
    ("path", "entry", "missing"),
    [
        ("/v1/datasets/{dataset_id}", {}, ""),
        ("/v1/tasks", {"parameters": [{"name": "dataset_id", "in": "query"}]}, "dataset_id"),
        ("/v1/tasks", {"parameters": [{"name": "before", "in": "query"}]}, "before"),
        ("/v1/tasks", {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/New"}}}}}, "task_ids"),
    ],
)
def test_an_uncovered_route_or_id_is_found(path: str, entry: dict[str, Any], missing: str) -> None:
    schemas = {"New": {"properties": {"of": {"anyOf": [{"items": {"properties": {"task_ids": {}}}}]}}}}
    document = {"paths": {path: {"get": entry}}, "components": {"schemas": schemas}}
    attempted = {("get", "/v1/tasks"): [Attempt("/v1/tasks", options={"params": {"after": "tsk_a"}})]}
    assert not_attempted(document, attempted) == {("get", path, missing)}
