"""Shutdown while requests are in progress, with the server of `ipt serve` and with plain uvicorn."""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from app.http.server import Server
from app.main import create_app
from app.settings import Settings
from tests.support.service import adaptation_body, listening

HALF = (
    b"POST /v1/adaptations HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
)

Stop = Callable[[], None]


@pytest.fixture
def run(database_url: str, tiny_settings: dict[str, Any], tmp_path: Path) -> Any:
    """Run a service whose shutdown waits a second for requests; yields its port and a function that stops it."""

    @contextmanager
    def run(kind: type[uvicorn.Server]) -> Iterator[tuple[int, Stop]]:
        app = create_app(Settings(data_dir=tmp_path, **tiny_settings), database_url=database_url)
        server = kind(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1))
        with listening(server) as port:
            yield port, lambda: setattr(server, "should_exit", True)

    return run


def _all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize("kind", [Server, uvicorn.Server])
def test_an_incomplete_request_gets_503_at_shutdown(
    kind: type[uvicorn.Server], run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with run(kind) as (port, stop), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(HALF)
        time.sleep(0.2)  # the service reads the body
        stop()
        head, _, body = _all_of(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"x-request-id: req_" in head
    assert b"retry-after: 5" in head.lower()
    assert json.loads(body)["error"]["code"] == "stopping"
    assert not [record for record in caplog.records if record.exc_info]


def test_a_connection_with_an_incomplete_head_is_closed_at_shutdown(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    with run(Server) as (port, stop), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(HALF[:50])
        time.sleep(0.2)
        stop()
        assert _all_of(connection) == b""
    assert not [record for record in caplog.records if record.exc_info]


def test_an_incomplete_response_is_cut_off_without_a_traceback_in_the_log(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain uvicorn does not end event streams."""
    with caplog.at_level(logging.INFO), run(uvicorn.Server) as (port, stop):
        url = f"http://127.0.0.1:{port}/v1/adaptations"
        created = httpx.post(url, json=adaptation_body()).json()
        headers = {"accept": "text/event-stream"}
        with httpx.stream("GET", f"{url}/{created['id']}/events", headers=headers, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            stop()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
    assert not [record for record in caplog.records if record.exc_info]
    assert any("route=/v1/adaptations/{adaptation_id}/events status=200" in line for line in caplog.messages)


def test_a_request_that_is_completed_during_shutdown_gets_its_response(run: Any) -> None:
    with run(Server) as (port, stop), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(HALF)
        time.sleep(0.2)
        stop()
        time.sleep(0.3)
        connection.sendall(b"}".rjust(99))
        assert _all_of(connection).startswith(b"HTTP/1.1 422 ")
