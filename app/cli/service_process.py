"""Run a service as a child process: start it, wait until it is ready, and stop it."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.cli.client import ServiceClient
from app.cli.output import CliError

_READY_SECONDS = 180.0
_STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that is ready, and the seconds from the start of its process until it was."""

    url: str
    process: subprocess.Popen[bytes]
    seconds_to_ready: float


@contextmanager
def running_service(log_file: Path, environment: Mapping[str, str], *options: str) -> Iterator[RunningService]:
    """Run `ipt serve` on a free port of 127.0.0.1 until the block ends.

    Args:
        log_file: receives the output of the service; its folder is created.
        environment: all environment variables of the service; `IPT_HOST` and `IPT_PORT` are replaced.
        options: further options of `ipt serve`.

    Raises:
        CliError: the service ended or did not become ready in time; the message is the service's last error, if any.
    """
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app.cli", "serve", *options]
    began = time.monotonic()
    with child_process(command, log_file, {**environment, "IPT_HOST": "127.0.0.1", "IPT_PORT": str(port)}) as process:
        with ServiceClient(url) as client:
            wait_until_ready(process, client.ready, log_file)
        yield RunningService(url, process, time.monotonic() - began)


@contextmanager
def child_process(
    command: Sequence[str], log_file: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; its output goes to `log_file`."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        process = start(command, log, environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that Ctrl-C reaches only the parent, which then stops it."""
    return subprocess.Popen(  # noqa: S603 - the callers' own programs
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_until_ready(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], log_file: Path, seconds: float = _READY_SECONDS
) -> None:
    """Poll `ready` until it holds.

    Raises:
        CliError: the process ended, or was not ready in time.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            raise CliError(_last_error(log_file) or f"the service ended with code {process.returncode}: see {log_file}")
        if time.monotonic() > deadline:
            raise CliError(f"the service is not ready after {seconds:.0f} s: see {log_file}")
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Return different TCP ports of 127.0.0.1 on which nothing listens now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _last_error(log_file: Path) -> str | None:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else None
