"""Connections on which a request never comes to its end, and those that only look so."""

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
def hurried(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A service that wants keys and gives requests a second in all."""
    monkeypatch.setattr(main, "ADMISSION_SECONDS", LIMIT / 2)
    with serve(wait=False, embedded=False, api_key=KEY, max_body_seconds=LIMIT / 2) as client:
        yield client


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    """A connection of one's own to the service."""
    url = urlsplit(str(client.base_url))
    with socket.create_connection((str(url.hostname), url.port or 0), timeout=10) as connection:
        yield connection


def seconds_until_closed(connection: socket.socket, pieces: Iterable[bytes]) -> float:
    """Send a piece each tenth of a second until the service closes the connection."""
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
        pytest.param(HEAD, b"x-more: 1\r\n", id="a head that trickles"),
        pytest.param(BODY, b" ", id="a body that trickles after a 401"),
        pytest.param(WHOLE, b"\r\n", id="line breaks behind a request"),
        pytest.param(WHOLE + HEAD, b"x-more: 1\r\n", id="a head that trickles behind a request"),
    ],
)
def test_a_connection_without_a_whole_request_is_closed(hurried: httpx.Client, first: bytes, then: bytes) -> None:
    with connected(hurried) as connection:
        seconds = seconds_until_closed(connection, itertools.chain([first], itertools.repeat(then)))
    assert LIMIT * 0.8 < seconds < LIMIT * 4


def test_a_connection_that_is_used_is_kept(hurried: httpx.Client) -> None:
    with connected(hurried) as connection:
        for _ in range(4):
            assert answer_to(connection, WHOLE).startswith(b"HTTP/1.1 200 ")
            time.sleep(LIMIT * 0.7)
        time.sleep(LIMIT)
        assert answer_to(connection, WHOLE).startswith(b"HTTP/1.1 200 ")


def answer_to(connection: socket.socket, request: bytes) -> bytes:
    """All of the answer, whose head and body may come in pieces."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        piece = connection.recv(4096)
        assert piece, f"closed after {answer!r}"
        answer += piece
    return answer


@pytest.mark.parametrize("behind", [b"", HEAD, BODY], ids=["nothing", "half a head", "half a body"])
def test_an_answer_that_takes_longer_goes_on_whatever_has_begun_to_come_behind_its_request(
    hurried: httpx.Client, behind: bytes
) -> None:
    hurried.headers["Authorization"] = f"Bearer {KEY}"
    made = hurried.post("/v1/adaptations", json=adaptation_body()).json()
    events = f"GET /v1/adaptations/{made['id']}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    with connected(hurried) as connection:
        connection.sendall(f"{events}Accept: text/event-stream\r\n\r\n".encode() + behind)
        cancel = threading.Timer(LIMIT * 3, hurried.post, [f"/v1/adaptations/{made['id']}/cancel"])
        cancel.start()
        began = time.monotonic()
        received = b""
        while b"event: cancelled" not in received:
            piece = connection.recv(4096)
            assert piece, received
            received += piece
        assert time.monotonic() - began > LIMIT * 2
        cancel.join()
