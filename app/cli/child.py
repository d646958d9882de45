"""Run `ipt serve` as a child process: wait until it is ready, and stop it so that it leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.cli.client import ServiceClient
from app.cli.output import CliError

_READY_SECONDS = 180.0
_STOP_SECONDS = 60.0


@contextmanager
def running_service(log_file: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the address of a service of our own on a free port; what it prints goes to `log_file`.

    Args:
        environment: `IPT_*` variables. Those of this process hold as well, but for the ones that say where to listen.

    Raises:
        CliError: it ended, or is not ready in time; the message is its own last error.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {**os.environ, **environment, "IPT_HOST": "127.0.0.1", "IPT_PORT": str(port)}
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which then stops the service in good order.
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, url, log_file)
        yield url
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    with ServiceClient(url) as client:
        while not client.ready():
            if process.poll() is not None:
                raise CliError(
                    _last_error(log_file) or f"the service ended with code {process.returncode}: see {log_file}"
                )
            if time.monotonic() > deadline:
                raise CliError(f"the service is not ready after {_READY_SECONDS:.0f} s: see {log_file}")
            time.sleep(0.2)


def _last_error(log_file: Path) -> str | None:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
