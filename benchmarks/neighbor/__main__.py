"""What one tenant's abuse of the service costs another tenant, measured over HTTP against a real `ipt serve`.

    python -m benchmarks.neighbor [--quick]

Starts the service in a temporary folder with default settings; `IPT_*` variables are ignored. One tenant predicts a
short text a few times a second: first alone, then while another tenant abuses the service. Writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from app.api_keys import service as api_keys
from app.cli.dataset_file import read_dataset, rows_of
from app.db import migrate
from app.db.embedded import embedded_postgres
from app.db.session import make_engine, transaction
from benchmarks.machine import provenance
from benchmarks.neighbor.abuse import ABUSES
from benchmarks.openai_requests import tuned_task
from benchmarks.report import Figure, section, write
from benchmarks.service import DATASET, SHORT_TEXT, console, split
from benchmarks.serving import Service, http_client, serving

SECONDS, QUICK_SECONDS = 20.0, 6.0
PAUSE_SECONDS = 0.05
"""Between an answer and the next prediction, and between two requests for /healthz."""
MOST_SLOWDOWN, MOST_STALL, MOST_MEMORY = 2.0, 50.0, 512.0
REFUSED = (429, 503)


@dataclass(frozen=True)
class Watched:
    """What a tenant saw in some seconds: milliseconds of its predictions and of /healthz, and how many were refused."""

    predictions: list[float]
    health: list[float]
    refused: int

    @property
    def p99(self) -> float:
        return float(np.quantile(self.predictions, 0.99))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbor", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:g} s for each measurement")
    parser.add_argument("--only", nargs="+", choices=ABUSES, metavar="NAME", help="only these kinds of abuse")
    options = parser.parse_args(arguments)
    # SIGTERM unwinds the stack, which stops the service.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    figures = measure(options.only or list(ABUSES), QUICK_SECONDS if options.quick else SECONDS)
    report = section("A noisy neighbor", provenance("python -m benchmarks.neighbor"), figures)
    if not (options.quick or options.only):
        write(report)
    print(report)


def measure(names: Sequence[str], seconds: float) -> list[Figure]:
    """Measure each kind of abuse against the same time without it."""
    examples, _ = split(rows_of(read_dataset(DATASET)))
    with tempfile.TemporaryDirectory(prefix="ipt-bench-") as folder, embedded_postgres(Path(folder)) as database_url:
        engine = make_engine(database_url)
        migrate.upgrade(engine)
        with serving(Path(folder) / "log", {"IPT_DATABASE_URL": database_url}) as service:
            with transaction(engine) as session:
                _, key = api_keys.issue(session, "abuser")
            with http_client(service) as http, http_client(service, key) as abuser:
                task = tuned_task(http, examples)
                environment = {"URL": service.url, "KEY": key, "TASK": tuned_task(abuser, examples)}
                environment["PAUSED"] = paused(abuser, examples)
                watch(http, task, 2.0)  # warms up
                figures = []
                for name in names:
                    console.print(name)
                    calm = watch(http, task, seconds)
                    before = service.process.memory_info().rss
                    with abusing(name, environment):
                        noisy, peak = watched_with_memory(service, http, task, seconds)
                    figures.append(figure(name, calm, noisy, (peak - before) / 1e6))
                    time.sleep(min(2.0, seconds))  # requests that were accepted end
        engine.dispose()
    return figures


def paused(http: httpx.Client, examples: list[dict[str, str]]) -> str:
    """Return the id of an adaptation that is paused and never ends."""
    adaptation = http.post("/v1/adaptations", json={"name": "paused", "examples": examples}).raise_for_status().json()
    http.post(f"/v1/adaptations/{adaptation['id']}/pause").raise_for_status()
    while http.get(f"/v1/adaptations/{adaptation['id']}").json()["state"] != "paused":
        time.sleep(0.1)
    return str(adaptation["id"])


@contextmanager
def abusing(name: str, environment: dict[str, str]) -> Iterator[None]:
    """Abuse the service in a child process until the block ends."""
    command = [sys.executable, "-m", "benchmarks.neighbor.abuse", name]
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"started\n":
                raise SystemExit(f"error: the abuse {name!r} ended before it started")
            time.sleep(1.0)
            yield
        finally:
            process.kill()


def watched_with_memory(service: Service, http: httpx.Client, task: str, seconds: float) -> tuple[Watched, int]:
    """Watch, and return the most memory that the service had meanwhile, in bytes."""
    peak, ends = [service.process.memory_info().rss], threading.Event()

    def sample() -> None:
        while not ends.wait(0.1):
            peak.append(service.process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    watched = watch(http, task, seconds)
    ends.set()
    thread.join()
    return watched, max(peak)


def watch(http: httpx.Client, task: str, seconds: float) -> Watched:
    """Predict and ask for the service's health for some seconds."""
    predictions: list[float] = []
    health: list[float] = []
    refused = 0
    end = time.monotonic() + seconds

    def probe() -> None:
        with httpx.Client(base_url=http.base_url, timeout=60, trust_env=False) as client:
            while time.monotonic() < end:
                began = time.perf_counter()
                client.get("/healthz").raise_for_status()
                health.append(1000 * (time.perf_counter() - began))
                time.sleep(PAUSE_SECONDS)

    thread = threading.Thread(target=probe)
    thread.start()
    while time.monotonic() < end:
        began = time.perf_counter()
        response = http.post(f"/v1/tasks/{task}/predict", json={"inputs": [SHORT_TEXT]})
        predictions.append(1000 * (time.perf_counter() - began))
        if response.status_code in REFUSED:
            refused += 1
        else:
            response.raise_for_status()
        time.sleep(PAUSE_SECONDS)
    thread.join()
    return Watched(predictions, health, refused)


def figure(name: str, calm: Watched, noisy: Watched, megabytes: float) -> Figure:
    """Return the row of one kind of abuse."""
    slowdown, stall = noisy.p99 / calm.p99, max(noisy.health)
    medians = [statistics.median(each.predictions) for each in (calm, noisy)]
    measured = (
        f"p99 {calm.p99:.0f} → {noisy.p99:.0f} ms ({slowdown:.1f}×), median {medians[0]:.0f} → {medians[1]:.0f} ms, "
        f"{noisy.refused} refused, {megabytes:+.0f} MB, /healthz at most {stall:.0f} ms"
    )
    met = slowdown <= MOST_SLOWDOWN and not noisy.refused and megabytes <= MOST_MEMORY and stall <= MOST_STALL
    goal = f"p99 ≤ {MOST_SLOWDOWN:g}×, 0 refused, ≤ +{MOST_MEMORY:.0f} MB, ≤ {MOST_STALL:.0f} ms"
    how = f"{ABUSES[name].what}; {len(noisy.predictions)} predictions beside it, {len(calm.predictions)} before it."
    return Figure(name, measured, goal, met, how)


if __name__ == "__main__":
    main()
