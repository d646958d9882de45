"""Speed and memory of the service as its users meet it: a real `ipt serve` with its worker, asked over HTTP.

    python -m benchmarks.service [--quick]

Needs nothing that runs already: the service and its PostgreSQL are started in a temporary folder, with the settings'
defaults whatever `IPT_*` variables hold. Writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from sqlalchemy import Engine

from app.adaptations.dataset import Row
from app.cli.client import ServiceClient
from app.cli.dataset_file import read_dataset
from app.cli.progress import adaptation_progress
from app.db.embedded import embedded_postgres
from app.db.models import Adaptation, Task, TaskVersion
from app.db.session import make_engine
from benchmarks.machine import ROOT, provenance
from benchmarks.report import Figure, section, write
from benchmarks.serving import Service, peak_bytes, serving
from benchmarks.stored_tasks import copy_task, size

DATASET = ROOT / "examples" / "support_tickets.jsonl"
PER_LABEL = 16
LATENCY_WARM_UP, LATENCY_REQUESTS = 10, 50
BATCH, BATCH_ROUNDS = 64, 7
STORED_TASKS = 2000
SHORT_TEXT = "The bill shows an amount that I never agreed to"

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="everything once instead of the median of three")
    asked = parser.parse_args(arguments)
    # Stopped from outside, it stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    figures = measure(times=1 if asked.quick else 3)
    origin = provenance("python -m benchmarks.service" + (" --quick" if asked.quick else ""))
    report = section("The service", origin, figures)
    write(report)
    print(report)


def measure(times: int) -> list[Figure]:
    """All figures, in the order of the table."""
    examples, rest = split(read_dataset(DATASET))
    first: list[float] = []
    again: list[float] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ipt-bench-") as name:
        folder = Path(name)
        for number in range(times):
            console.print(f"start {number + 1} of {times} in an empty folder, then on a database that runs")
            own = folder / str(number)
            own.mkdir()
            with serving(own / "first.log", {"IPT_DATA_DIR": str(own)}) as service:
                first.append(service.seconds)
            with (
                embedded_postgres(own) as database_url,
                serving(own / "second.log", {"IPT_DATABASE_URL": database_url}) as service,
            ):
                again.append(service.seconds)
                console.print(f"  ready after {first[-1]:.1f} s and {again[-1]:.1f} s")
                if number + 1 < times:
                    continue
                engine = make_engine(database_url)
                try:
                    figures = measure_running(service, engine, examples, [row["input"] for row in rest], times)
                finally:
                    engine.dispose()
    return [
        start(
            "service ready, first start", first,
            "`ipt serve` in an empty folder: from the start of its process, over making its PostgreSQL and the tables"
            " in it, to the first 200 of `/readyz`, with its worker starting beside it",
        ),
        start(
            "service ready, database running", again,
            "The same for `ipt serve --worker` on a PostgreSQL that runs and has the tables, in turn with the above",
        ),
        *figures,
    ]  # fmt: skip


def measure_running(
    service: Service, engine: Engine, examples: list[Row], texts: list[str], adaptations: int
) -> list[Figure]:
    """What is asked of a service that is ready, then what it holds in memory and a task in the database."""
    headers = {"authorization": f"Bearer {service.key}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=60, trust_env=False) as http:
        adapted, task_id = adaptation(service, examples, adaptations)
        answers = [adapted, latency(http, task_id), batch(http, engine, task_id, texts[:BATCH])]
    return [*answers, *memory(service), storage(engine, task_id)]


def start(what: str, seconds: list[float], how: str) -> Figure:
    """One kind of start, measured several times."""
    middle = statistics.median(seconds)
    each = ", ".join(f"{one:.1f}" for one in sorted(seconds))
    return Figure(what, f"{middle:.1f} s", "≤ 10 s", middle <= 10, f"{how}; median of {each}.")


def adaptation(service: Service, examples: list[Row], count: int) -> tuple[Figure, str]:
    """Tune the demo's task `count` times, one after another; also returns the last one's id."""
    times: list[float] = []
    task_id = ""
    with ServiceClient(service.url, service.key) as client:
        for number in range(count):
            console.print(f"adaptation {number + 1} of {count}")
            with adaptation_progress(console) as show:
                began = time.perf_counter()
                done = client.wait(client.create_adaptation("support_tickets", examples)["id"], show, poll_seconds=0.1)
                times.append(time.perf_counter() - began)
            if done["state"] != "succeeded":
                raise SystemExit(f"error: the adaptation {done['state']}: {done['error']}")
            task_id = str(done["task_id"])
            console.print(f"  succeeded after {times[-1]:.1f} s")
    labels = len({row["output"] for row in examples})
    how = (
        f"{DATASET.name}, {labels} labels with {PER_LABEL} examples each, from `POST /v1/adaptations` until it is seen"
        f" to have succeeded (asked every 0.1 s); median of {count}. The first, sent as soon as the service was ready,"
        f" took {times[0]:.1f} s."
    )
    middle = statistics.median(times)
    return Figure("the demo's adaptation", f"{middle:.1f} s", "≤ 45 s", middle <= 45, how), task_id


def latency(http: httpx.Client, task_id: str) -> Figure:
    """One caller, one text at a time."""
    console.print("one short text")
    body = {"inputs": [SHORT_TEXT]}
    times = [1000 * post(http, f"/v1/tasks/{task_id}/predict", body) for _ in range(LATENCY_WARM_UP + LATENCY_REQUESTS)]
    middle, p95 = statistics.median(times[LATENCY_WARM_UP:]), statistics.quantiles(times[LATENCY_WARM_UP:], n=20)[-1]
    how = (
        f"`POST /v1/tasks/{{id}}/predict` with one text of {len(SHORT_TEXT)} characters, seen from a caller on a kept"
        f" connection: {LATENCY_REQUESTS} requests after {LATENCY_WARM_UP} to warm up. The goal is on the median."
    )
    measured = f"median {middle:.1f} ms, 95th percentile {p95:.1f} ms"
    return Figure("one short text predicted", measured, "≤ 40 ms", middle <= 40, how)


def batch(http: httpx.Client, engine: Engine, task_id: str, texts: list[str]) -> Figure:
    """The same texts asked of as many tasks, and of one."""
    console.print(f"{len(texts)} texts of {len(texts)} tasks, and of one")
    bodies = {
        name: {"requests": [{"task_id": asked, "input": line} for asked, line in zip(ids, texts, strict=True)]}
        for name, ids in (("many", copy_task(engine, task_id, len(texts))), ("one", [task_id] * len(texts)))
    }
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(BATCH_ROUNDS + 1):
        for name in sorted(bodies, reverse=number % 2 == 1):  # neither is always the second
            took = 1000 * post(http, "/v1/predict", bodies[name])
            if number:  # the first round reads the tasks from the database
                times[name].append(took)
    many, one = statistics.median(times["many"]), statistics.median(times["one"])
    how = (
        f"`POST /v1/predict` with {len(texts)} of the tickets that were no examples, asked of {len(texts)} copies of"
        f" the task, each with its own vector, and all asked of the one task: {BATCH_ROUNDS} rounds of both in turn"
        " after one to warm up, medians."
    )
    measured = f"{many:.0f} ms against {one:.0f} ms: {many / one:.2f}×"
    return Figure(f"{len(texts)} texts of {len(texts)} tasks, of one task", measured, "≤ 1.1×", many <= 1.1 * one, how)


def memory(service: Service) -> list[Figure]:
    """The peaks of the two processes, after all of the above."""
    # The worker's own process holds a model, and so much more than whatever helps to run it.
    worker = max(peak_bytes(child) for child in service.process.children(recursive=True))
    how = {
        "API": "Most memory that was resident at once (`VmHWM`; where the system does not tell, what is resident now)"
        " since `ipt serve` started, after all of the above.",
        "worker": "The same for the worker that it started.",
    }
    return [
        Figure(f"memory of the {name} process", f"{peak / 1e9:.2f} GB", "≤ 1.2 GB", peak <= 1.2e9, how[name])
        for name, peak in (("API", peak_bytes(service.process)), ("worker", worker))
    ]


def storage(engine: Engine, task_id: str) -> Figure:
    """What one more task adds to the tables that predictions read."""
    console.print(f"{STORED_TASKS} more tasks in the database")
    before, record_before = size(engine, Task, TaskVersion), size(engine, Adaptation)
    copy_task(engine, task_id, STORED_TASKS)
    each = (size(engine, Task, TaskVersion) - before) / STORED_TASKS
    record = (size(engine, Adaptation) - record_before) / STORED_TASKS
    how = (
        f"Growth of `pg_total_relation_size`, indexes included, of `tasks` and `task_versions` by {STORED_TASKS} copies"
        f" of the task, divided by {STORED_TASKS}. Not in it: the record of how a task was made, which is its row in"
        f" `adaptations` ({record:,.0f} bytes) and its examples."
    )
    return Figure("a task in the database", f"{each:,.0f} bytes", "≤ 8,000 bytes", each <= 8000, how)


def split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """The first examples of every label, and the rest: what the demo adapts with, and what it asks."""
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row["output"]].append(row)
    groups = by_label.values()
    return list(chain(*(g[:PER_LABEL] for g in groups))), list(chain(*(g[PER_LABEL:] for g in groups)))


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> float:
    """Seconds until the answer is read."""
    began = time.perf_counter()
    response = http.post(path, json=body)
    seconds = time.perf_counter() - began
    if response.is_error:
        raise SystemExit(f"error: {path} answered {response.status_code}: {response.text}")
    return seconds


if __name__ == "__main__":
    main()
