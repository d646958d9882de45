"""`GET /v1/adaptations/{id}/events` as a stream of server-sent events."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from sqlalchemy import Engine, func, update

from app.db.models import ApiKey
from app.db.session import transaction
from tests.support.service import Serve, WorkOff, adaptation_body, error_of

STREAM = {"Accept": "text/event-stream"}


def messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Yield the fields of each message; a comment is a message with the field ''."""
    message: dict[str, str] = {}
    for line in lines:
        if not line:
            yield message
            message = {}
        else:
            name, _, value = line.partition(": ")
            message[name.rstrip(":")] = value


def test_a_stream_has_past_and_new_events_and_ends_with_the_adaptation(client: httpx.Client, work_off: WorkOff) -> None:
    adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
    with client.stream("GET", f"/v1/adaptations/{adaptation['id']}/events", headers=STREAM) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        received = messages(response.iter_lines())
        first = next(received)
        assert (first["id"], first["event"]) == ("1", "queued")
        work_off()
        others = list(received)
    assert [(m["id"], m["event"]) for m in others] == [("2", "running"), ("3", "succeeded")]
    listed = client.get(f"/v1/adaptations/{adaptation['id']}/events").json()["data"]
    assert [json.loads(m["data"]) for m in (first, *others)] == listed


def test_a_stream_resumes_after_its_last_event_until_the_adaptation_has_ended(
    client: httpx.Client, work_off: WorkOff
) -> None:
    client.post("/v1/adaptations", json=adaptation_body())
    [done] = work_off()
    path = f"/v1/adaptations/{done}/events"
    resumed = client.get(path, headers=STREAM | {"Last-Event-ID": "1"}, params={"after": 0})
    assert [m["event"] for m in messages(iter(resumed.text.splitlines()))] == ["running", "succeeded"]
    assert client.get(path, headers=STREAM | {"Last-Event-ID": "3"}).status_code == 204


def test_a_tenant_has_a_limit_of_open_streams(serve: Serve) -> None:
    with serve(wait=False, max_event_streams=2) as client, ExitStack() as streams:
        adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
        path = f"/v1/adaptations/{adaptation['id']}/events"
        received = [
            messages(streams.enter_context(client.stream("GET", path, headers=STREAM)).iter_lines()) for _ in range(2)
        ]
        assert [next(stream)["event"] for stream in received] == ["queued", "queued"]
        refused = client.get(path, headers=STREAM)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "too_many_streams")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get(path).status_code == 200
        streams.close()
        deadline = time.monotonic() + 30
        while True:
            with client.stream("GET", path, headers=STREAM) as stream:
                if stream.status_code == 200:
                    break
            assert time.monotonic() < deadline, "closed streams still count"
            time.sleep(0.1)


def test_a_quiet_stream_sends_keep_alives(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adaptations.event_stream.KEEP_ALIVE_SECONDS", 0.0)
    adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
    with client.stream("GET", f"/v1/adaptations/{adaptation['id']}/events", headers=STREAM) as response:
        received = messages(response.iter_lines())
        assert next(received)["event"] == "queued"
        assert next(received) == {"": "ping"}
        client.post(f"/v1/adaptations/{adaptation['id']}/cancel")
        assert [m["event"] for m in received if "event" in m] == ["cancelled"]


def test_a_stream_ends_when_the_task_is_deleted(client: httpx.Client) -> None:
    adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
    with client.stream("GET", f"/v1/adaptations/{adaptation['id']}/events", headers=STREAM) as response:
        received = messages(response.iter_lines())
        next(received)
        assert client.delete(f"/v1/tasks/{adaptation['task_id']}").is_success
        assert list(received) == []


@pytest.mark.parametrize("end", ["revoked_at", "expires_at"])
def test_a_stream_ends_when_its_key_becomes_invalid(client: httpx.Client, service_engine: Engine, end: str) -> None:
    adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
    with client.stream("GET", f"/v1/adaptations/{adaptation['id']}/events", headers=STREAM) as response:
        received = messages(response.iter_lines())
        next(received)
        key = client.headers["authorization"].removeprefix("Bearer ")
        with transaction(service_engine) as session:
            session.execute(update(ApiKey).where(ApiKey.prefix == key[:12]).values({end: func.now()}))
        assert list(received) == []
    assert client.get(f"/v1/adaptations/{adaptation['id']}/events", headers=STREAM).status_code == 401


@pytest.mark.parametrize("last", ["x", "-1", "1e3", str(2**31)])
def test_an_invalid_last_event_id_is_rejected(client: httpx.Client, last: str) -> None:
    adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
    headers = STREAM | {"Last-Event-ID": last}
    response = client.get(f"/v1/adaptations/{adaptation['id']}/events", headers=headers)
    assert (response.status_code, error_of(response)["param"]) == (422, "last-event-id")
    message = error_of(response)["message"]
    assert message.startswith("must be ")
    assert message.endswith(": send the `seq` of the last event that you received")
    assert "None" not in message
    listed = client.get(f"/v1/adaptations/{adaptation['id']}/events", params={"limit": last})
    assert "seq" not in error_of(listed)["message"]


def test_many_streams_do_not_block_other_requests(serve: Serve) -> None:
    with serve() as client:
        adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
        path = f"{str(client.base_url).rstrip('/')}/v1/adaptations/{adaptation['id']}/events"
        opened, ended = threading.Barrier(61, timeout=30), []

        def listen() -> None:
            with httpx.stream("GET", path, headers=STREAM, timeout=30) as response:
                received = messages(response.iter_lines())
                next(received)
                opened.wait()
                ended.append([m["event"] for m in received])

        threads = [threading.Thread(target=listen) for _ in range(60)]
        for thread in threads:
            thread.start()
        opened.wait()
        began = time.monotonic()
        assert client.post(f"/v1/adaptations/{adaptation['id']}/cancel").json()["state"] == "cancelled"
        assert time.monotonic() - began < 10, "sixty streams hold threads or database connections"
        for thread in threads:
            thread.join(timeout=30)
        assert ended == [["cancelled"]] * 60


def test_a_stopping_service_ends_its_streams_first(serve: Serve) -> None:
    opened, ended = threading.Event(), threading.Event()

    def listen(path: str) -> None:
        with httpx.stream("GET", path, headers=STREAM, timeout=30) as response:
            received = messages(response.iter_lines())
            next(received)
            opened.set()
            list(received)  # a stream that is cut off raises here
            ended.set()

    with serve() as client:
        adaptation = client.post("/v1/adaptations", json=adaptation_body()).json()
        path = f"{str(client.base_url).rstrip('/')}/v1/adaptations/{adaptation['id']}/events"
        threading.Thread(target=listen, args=(path,), daemon=True).start()
        assert opened.wait(30)
    assert ended.wait(5)
