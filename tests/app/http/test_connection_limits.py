"""Connections with incomplete requests are closed; slow responses are not."""

import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from app import main
from tests.support.service import Serve, adaptation_body

KEY = "a-key-of-sixteen-characters-or-more"
LIMIT = 1.0
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = HEAD + b"\r\n"
BODY = b"POST /v1/adaptations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture
def limited(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A service with API keys, in which a request must arrive within a second."""
    monkeypatch.setattr(main, "ADMISSION_SECONDS", LIMIT / 2)
    with serve(wait=False, embedded=False, api_key=KEY, max_body_seconds=LIMIT / 2) as client:
        yield client


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    """Open a connection to the service."""
    url = urlsplit(str(client.base_url))
    with socket.create_connection((str(url.hostname), url.port or 0), timeout=10) as connection:
        yield connection


def seconds_until_closed(connection: socket.socket, pieces: Iterable[bytes]) -> float:
    """Send a piece every tenth of a second until the service closes the connection; return how long that took."""
    began = time.monotonic()
    connection.settimeout(0.1)
    for piece in pieces:
        assert time.monotonic() - began < 10 * LIMIT
        try:
            connection.sendall(piece)
            while connection.recv(4096):
                pass
        except TimeoutError:
            continue
        except ConnectionError:
            pass
        break
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="silent"),
        pytest.param(HEAD, b"", id="half a head"),
        pytest.param(HEAD, b"x-more: 1\r\n", id="a slow head"),
        pytest.param(BODY, b" ", id="a slow body after a 401"),
        pytest.param(WHOLE, b"\r\n", id="line breaks behind a request"),
        pytest.param(WHOLE + HEAD, b"x-more: 1\r\n", id="a slow head behind a request"),
    ],
)
def test_a_connection_without_a_complete_request_is_closed(limited: httpx.Client, first: bytes, then: bytes) -> None:
    with connected(limited) as connection:
        seconds = seconds_until_closed(connection, itertools.chain([first], itertools.repeat(then)))
    assert LIMIT * 0.8 < seconds < LIMIT * 4


def test_a_connection_in_use_is_kept(limited: httpx.Client) -> None:
    with connected(limited) as connection:
        for _ in range(4):
            assert response_to(connection, WHOLE).startswith(b"HTTP/1.1 200 ")
            time.sleep(LIMIT * 0.7)
        time.sleep(LIMIT)
        assert response_to(connection, WHOLE).startswith(b"HTTP/1.1 200 ")


def response_to(connection: socket.socket, request: bytes) -> bytes:
    """Return the whole response, whose head and body may arrive in pieces."""
    connection.sendall(request)
    response = b""
    while not response.endswith(b'{"status":"ok"}'):
        piece = connection.recv(4096)
        assert piece, f"closed after {response!r}"
        response += piece
    return response


@pytest.mark.parametrize("behind", [b"", HEAD, BODY], ids=["nothing", "half a head", "half a body"])
def test_a_long_response_continues_while_another_request_arrives(limited: httpx.Client, behind: bytes) -> None:
    limited.headers["Authorization"] = f"Bearer {KEY}"
    created = limited.post("/v1/adaptations", json=adaptation_body()).json()
    events = (
        f"GET /v1/adaptations/{created['id']}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    )
    with connected(limited) as connection:
        connection.sendall(f"{events}Accept: text/event-stream\r\n\r\n".encode() + behind)
        cancel = threading.Timer(LIMIT * 3, limited.post, [f"/v1/adaptations/{created['id']}/cancel"])
        cancel.start()
        began = time.monotonic()
        received = b""
        while b"event: cancelled" not in received:
            piece = connection.recv(4096)
            assert piece, received
            received += piece
        assert time.monotonic() - began > LIMIT * 2
        cancel.join()
