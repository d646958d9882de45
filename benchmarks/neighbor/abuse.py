"""The ways in which a tenant abuses the service, each run until the process is ended.

    python -m benchmarks.neighbor.abuse NAME

Reads the address, the abuser's key and its task from the environment variables URL, KEY, TASK and PAUSED. The process
has the lowest priority: a real abuser sends from another machine.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

LONG_TEXT = "The parcel never came and nobody answers my letters. " * 180


@dataclass(frozen=True)
class Target:
    """The service, and the abuser's key, task and paused adaptation."""

    host: str
    port: int
    key: str
    task: str
    paused: str

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
        """Return an HTTP request."""
        head = f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\nauthorization: Bearer {self.key}\r\n"
        return f"{head}content-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def post(self, path: str, value: object) -> bytes:
        """Return a POST request of a JSON value."""
        return self.request("POST", path, json.dumps(value).encode())


@dataclass(frozen=True)
class Abuse:
    """Connections that send the same bytes again and again."""

    what: str
    connections: int
    bytes_of: Callable[[Target], bytes]
    reads: bool = True
    """Whether answers are read; without it, a connection sends until the service takes no more bytes."""
    once: bool = False
    """Whether a connection sends once and then only reads, as that of an event stream."""


def _predict(target: Target, inputs: object) -> bytes:
    return target.post(f"/v1/tasks/{target.task}/predict", {"inputs": inputs})


def _combining_marks(target: Target) -> bytes:
    labels = [f"{number:03}" + "a\u0316\u0301" * 3_200 for number in range(700)]
    examples = [{"input": "hello", "output": label} for label in labels]
    body = json.dumps({"name": "marks", "kind": "classification", "examples": examples}, ensure_ascii=False)
    return target.request("POST", "/v1/datasets/check", body.encode())


def _wide_csv(target: Target) -> bytes:
    header = ",".join(f"c{number}" for number in range(60_000))
    parts = f'--x\r\ncontent-disposition: form-data; name="file"; filename="wide.csv"\r\n\r\n{header}\n1\n\r\n--x--\r\n'
    return target.request("POST", "/v1/datasets/check", parts.encode(), "multipart/form-data; boundary=x")


def _dataset(target: Target) -> bytes:
    examples = [{"input": f"{number} {LONG_TEXT[:900]}", "output": "ab"[number % 2]} for number in range(1_000)]
    return target.post("/v1/datasets/check", {"name": "large", "examples": examples})


def _headers(target: Target) -> bytes:
    return f"GET /healthz HTTP/1.1\r\nhost: {target.host}\r\n".encode() + b"x-filler: " + b"y" * (256 << 20) + b"\r\n"


ABUSES = {
    "labels of combining marks": Abuse("4 callers send 700 labels of 9,603 characters (14 MB)", 4, _combining_marks),
    "a file of 60,000 columns": Abuse("4 callers send a CSV file of 60,000 columns to check", 4, _wide_csv),
    "long texts": Abuse(
        "4 callers ask for predictions of 256 texts of 9,500 characters",
        4,
        lambda target: _predict(target, [f"{number} {LONG_TEXT}" for number in range(256)]),
    ),
    "unread answers": Abuse(
        "8 callers ask for predictions of 256 texts again and again and read no answer",
        8,
        lambda target: _predict(target, ["hello"] * 256),
        reads=False,
    ),
    "bodies of 1 MB": Abuse("40 callers send datasets of 1,000 examples (1 MB) to check", 40, _dataset),
    "nested lists": Abuse(
        "8 callers ask for predictions of 30,000 nested lists",
        8,
        lambda target: _predict(target, [[[[[]]]]] * 30_000),
    ),
    "event streams": Abuse(
        "141 callers follow the events of a paused adaptation",
        141,
        lambda target: target.request("GET", f"/v1/adaptations/{target.paused}/events"),
        once=True,
    ),
    "headers without end": Abuse("16 callers without a key send headers of 256 MB", 16, _headers),
    "sockets that never read": Abuse(
        "150 callers without a key ask 20 times for /openapi.json and read no answer",
        150,
        lambda target: f"GET /openapi.json HTTP/1.1\r\nhost: {target.host}\r\n\r\n".encode() * 20,
        reads=False,
    ),
}


def main(arguments: Sequence[str]) -> None:
    [name] = arguments
    os.nice(19)
    url = urlsplit(os.environ["URL"])
    target = Target(str(url.hostname), int(url.port or 80), *(os.environ[name] for name in ("KEY", "TASK", "PAUSED")))
    abuse = ABUSES[name]
    data = abuse.bytes_of(target)
    for _ in range(abuse.connections):
        threading.Thread(target=_send_for_ever, args=(abuse, target, data), daemon=True).start()
    print("started", flush=True)
    threading.Event().wait()


def _send_for_ever(abuse: Abuse, target: Target, data: bytes) -> None:
    while True:
        try:
            with socket.create_connection((target.host, target.port), timeout=60) as connection:
                _use(connection, abuse, data)
        except OSError:
            pass
        time.sleep(0.05)  # a refused connection is tried again, but not in a spinning loop


def _use(connection: socket.socket, abuse: Abuse, data: bytes) -> None:
    answers = _answers(connection)
    while True:
        connection.sendall(data)
        if abuse.reads:
            next(answers)
        while abuse.once:
            next(answers)


def _answers(connection: socket.socket) -> Iterator[bytes]:
    """Yield the bytes of each answer, as they come; an answer of known length is yielded whole."""
    held = b""
    while data := connection.recv(1 << 16):
        held += data
        head, separator, body = held.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if separator and (not length or len(body) >= int(length)):
            yield held
            held = b""
    raise ConnectionError


if __name__ == "__main__":
    main(sys.argv[1:])
