"""A service in a child process, for measurements from outside."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.cli.output import CliError
from app.cli.service_process import running_service


@dataclass(frozen=True, slots=True)
class Service:
    """A running service; `seconds` is the time that it took to become ready."""

    url: str
    key: str
    process: psutil.Process
    seconds: float


@contextmanager
def serving(log_file: Path, environment: Mapping[str, str]) -> Iterator[Service]:
    """Run `ipt serve --worker` until the block ends, with only the `IPT_*` variables of `environment`."""
    key = secrets.token_urlsafe()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IPT_")}
    try:
        with running_service(log_file, inherited | {"IPT_API_KEY": key} | environment, "--worker") as service:
            yield Service(service.url, key, psutil.Process(service.process.pid), service.seconds_to_ready)
    except CliError as error:
        raise SystemExit(f"error: {error}\n{log_file.read_text(errors='replace')}") from error


def http_client(service: Service, key: str | None = None) -> httpx.Client:
    """Return a client with the operator's API key, or with `key`."""
    headers = {"authorization": f"Bearer {key or service.key}"}
    return httpx.Client(base_url=service.url, headers=headers, timeout=60, trust_env=False)


def peak_bytes(process: psutil.Process) -> int:
    """Return the peak resident memory, or the current one where the system does not report a peak."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else int(process.memory_info().rss)
