"""Requests in progress per tenant: refused before their bodies are read, and large bodies delay no one."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from app.adaptations import service
from app.api_keys import service as api_keys
from app.db.session import transaction
from app.http import json_body
from tests.support.service import Serve, adaptation_body, error_of

KEY = "a-key-of-sixteen-characters-or-more"


def headers_of(engine: Engine, tenant: str) -> dict[str, str]:
    """Return the headers of a request with a new key of this tenant."""
    with transaction(engine) as session:
        _, key = api_keys.issue(session, tenant)
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def unfinished(client: httpx.Client, headers: dict[str, str], size: int) -> Iterator[None]:
    """Hold a request open whose body of this size does not arrive."""
    lines = [
        "POST /v1/predict HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {size}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", "{"]).encode())
        yield


def until_status(client: httpx.Client, headers: dict[str, str], status: int, **request: Any) -> httpx.Response:
    """Repeat a request until the service, which counts requests as they arrive and leave, answers with this status."""
    deadline = time.monotonic() + 30
    while (response := client.post("/v1/predict", headers=headers, **request)).status_code != status:
        assert time.monotonic() < deadline, response.text
        time.sleep(0.01)
    return response


@pytest.mark.parametrize(
    ("limits", "code"), [({"max_requests": 4}, "too_many_requests"), ({"max_bodies_bytes": 4000}, "too_many_bytes")]
)
def test_a_flood_of_unfinished_requests_is_refused_and_another_tenant_is_answered(
    serve: Serve, engine: Engine, limits: dict[str, int], code: str
) -> None:
    with serve(wait=False, embedded=False, api_key=KEY, **limits) as client:
        flooding, other = headers_of(engine, "flooding"), headers_of(engine, "other")
        body = {"content": b" " * 1000}
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(unfinished(client, flooding, 1000))
            refused = until_status(client, flooding, 429, **body)
            assert error_of(refused)["code"] == code
            assert int(refused.headers["retry-after"]) > 0
            assert client.post("/v1/predict", headers=other, **body).status_code == 400
        until_status(client, flooding, 400, **body)


def test_large_bodies_are_parsed_in_a_thread_of_their_own_and_delay_no_small_request(
    client: httpx.Client, new_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, gate, threads = json_body.parse_json, threading.Event(), list[str]()

    def gated(body: bytes, max_entries: int) -> Any:
        threads.append(threading.current_thread().name)
        assert len(body) < json_body.LARGE_BYTES or gate.wait(300)
        return parse(body, max_entries)

    monkeypatch.setattr(json_body, "parse_json", gated)
    small = {"inputs": ["small"]}
    large = json.dumps(small | {"version": None}).encode() + b" " * json_body.LARGE_BYTES
    path = "/v1/tasks/tsk_unknown/predict"
    with ThreadPoolExecutor(8) as pool:
        flood = [
            pool.submit(client.post, path, content=large, headers={"content-type": "application/json"})
            for _ in range(8)
        ]
        try:
            for _ in range(5):
                assert new_client().post(path, json=small).status_code == 404
                assert new_client().get("/v1/tasks").status_code == 200
        finally:
            gate.set()
        assert [response.result().status_code for response in flood] == [404] * 8
    assert [name for name in threads if name.startswith("parse")] == ["parse_0"] * 8
    assert len(threads) == 13


def test_adaptations_are_created_in_threads_of_their_own(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    create, threads = service.create, list[str]()

    def recorded(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return create(*arguments, **options)

    monkeypatch.setattr(service, "create", recorded)
    assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
    rows = "input,output\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(8))
    form = {"files": {"file": ("rows.csv", rows)}, "data": {"name": "rows"}}
    assert client.post("/v1/adaptations", **form).status_code == 202
    assert [name.rpartition("_")[0] for name in threads] == ["create"] * 2
