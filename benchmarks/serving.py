"""A service in a process of its own, to be measured from outside."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.cli.client import ServiceClient
from benchmarks.machine import ROOT


@dataclass(frozen=True, slots=True)
class Service:
    """A running service; `seconds` is what it took to become ready."""

    url: str
    key: str
    process: psutil.Process
    seconds: float


@contextmanager
def serving(log_file: Path, environment: Mapping[str, str]) -> Iterator[Service]:
    """Run `ipt serve --worker` on a free port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = secrets.token_urlsafe()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IPT_")}
    command = [sys.executable, "-m", "app.cli", "serve", "--worker", "--host", "127.0.0.1", "--port", str(port)]
    began = time.perf_counter()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=inherited | {"IPT_API_KEY": key} | environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        with ServiceClient(url) as client:
            while not client.ready():
                if process.poll() is not None:
                    raise SystemExit(f"error: the service ended:\n{log_file.read_text(errors='replace')}")
                time.sleep(0.2)  # each look takes time from the start
        yield Service(url, key, psutil.Process(process.pid), time.perf_counter() - began)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def peak_bytes(process: psutil.Process) -> int:
    """The most memory that was resident at once; where the system does not tell, what is resident now."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else int(process.memory_info().rss)
