"""A client without a key holds neither connections nor memory: limits on requests, heads, reading and connections."""

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import httpx
import pytest

from app import main
from app.http import connection_limits, unread_responses
from app.http.connection_limits import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED, LimitedProtocol
from app.http.unread_responses import UnreadResponse, UnreadResponses
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


TOO_LARGE = {
    "one header": [HEAD, b"x: ", *[b"x" * 8192] * 33],
    "the path": [b"GET /", *[b"x" * 8192] * 33],
    "all headers": [HEAD, *(f"x-{number}: {'x' * 4096}\r\n".encode() for number in range(17))],
    "many headers": [HEAD, b"".join(b"x-%d: 1\r\n" % number for number in range(MAX_HEADERS + 1))],
}


@pytest.mark.parametrize("pieces", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_head_that_is_too_large_is_refused_before_it_ends(limited: httpx.Client, pieces: list[bytes]) -> None:
    with connected(limited) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except ConnectionError:  # the service has refused it and closed the connection
                break
            time.sleep(0.001)
        assert_refused(connection, 431, "head_too_large")


def assert_refused(connection: socket.socket, status: int, code: str) -> None:
    """Read until the service closes the connection; a reset may destroy the response before it is read."""
    response = b""
    try:
        while piece := connection.recv(4096):
            response += piece
    except ConnectionError:
        if not response:
            return
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["code"] == code


def test_a_head_below_the_limits_may_arrive_in_pieces(limited: httpx.Client) -> None:
    with connected(limited) as connection:
        connection.sendall(HEAD)
        for number in range(MAX_HEADERS - 1):
            connection.sendall(b"x-%d: " % number + b"x" * (MAX_HEAD_BYTES // MAX_HEADERS - 50))
            connection.sendall(b"\r\n")
        assert response_to(connection, b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_trailer_is_no_header(limited: httpx.Client) -> None:
    chunked = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    with connected(limited) as connection:
        trailer = f"0\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
        connection.sendall(chunked + b"Content-Type: application/json\r\n\r\n2\r\n{}\r\n" + trailer)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_client_that_does_not_read_is_disconnected(limited: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread_responses, "READ_SECONDS", LIMIT)
    lost = threading.Event()
    connection_lost = LimitedProtocol.connection_lost

    def note_and_lose(protocol: LimitedProtocol, error: Exception | None) -> None:
        connection_lost(protocol, error)
        lost.set()

    limited.close()
    monkeypatch.setattr(LimitedProtocol, "connection_lost", note_and_lose)
    with connected(limited) as connection:
        connection.sendall(DOCUMENT * 60)  # more than the buffers of both systems hold
        assert lost.wait(30)


def test_a_connection_that_sends_many_requests_at_once_is_closed(limited: httpx.Client) -> None:
    with connected(limited) as connection:
        connection.sendall(WHOLE * MAX_PIPELINED)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < MAX_PIPELINED:
            received += connection.recv(1 << 16)
    with connected(limited) as connection:
        with suppress(ConnectionError):
            connection.sendall(WHOLE * 20 * MAX_PIPELINED)
        received = b""
        with suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                received += piece
    assert received.count(b"HTTP/1.1 200 ") <= MAX_PIPELINED
    assert limited.get("/healthz").status_code == 200


def test_a_client_that_reads_slowly_gets_everything(limited: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread_responses, "READ_SECONDS", 3 * LIMIT)
    monkeypatch.setattr(unread_responses, "READ_BYTES", 1024)
    with connected(limited) as connection:
        connection.sendall(DOCUMENT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        size = sum(map(len, iter(lambda: connection.recv(1 << 16), b""))) - len(b"connection: close\r\n")
    with connected(limited) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(DOCUMENT * 20)
        received = 0
        while received < 20 * size and (piece := connection.recv(1 << 16)):
            received += len(piece)
            time.sleep(LIMIT / 15)
    assert received == 20 * size


class Transport(asyncio.Transport):
    """A connection whose client reads nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.aborted = size, False

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True


def test_clients_that_do_not_read_cannot_hold_more_than_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread_responses, "MAX_UNREAD_BYTES", 100)
    responses, transports = UnreadResponses(), [Transport(40) for _ in range(4)]
    entries = [UnreadResponse(transport, now=0.0) for transport in transports]
    for entry in entries[:2]:
        responses.add(entry)
    responses.discard(entries[0])  # read, and written again: now the second one waits the longest
    for entry in (entries[0], *entries[2:]):
        responses.add(entry)
    assert [transport.aborted for transport in transports] == [True, True, False, False]


def test_connections_beyond_the_limit_are_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "MAX_CONNECTIONS", 2)
    with serve(wait=False, embedded=False, api_key=KEY) as client:
        with connected(client), connected(client) as second:
            with connected(client) as third:
                assert_refused(third, 503, "too_many_connections")
            assert response_to(second, WHOLE).startswith(b"HTTP/1.1 200 ")
        deadline = time.monotonic() + 30
        while True:  # until the service notices that the others have closed
            with connected(client) as connection:
                try:
                    assert response_to(connection, WHOLE).startswith(b"HTTP/1.1 200 ")
                    break
                except (AssertionError, ConnectionError):
                    assert time.monotonic() < deadline
