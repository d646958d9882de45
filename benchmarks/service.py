"""Speed and memory of the service as its users see it: a real `ipt serve` with its worker, measured over HTTP.

    python -m benchmarks.service [--quick]

Starts the service and its PostgreSQL in a temporary folder with default settings; `IPT_*` variables are ignored.
Writes docs/benchmarks.md.
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

from app.cli.client import ServiceClient
from app.cli.dataset_file import Row, read_dataset, rows_of
from app.cli.progress import adaptation_progress
from app.db.embedded import embedded_postgres
from app.db.models import Adaptation, Task, TaskVersion
from app.db.session import make_engine
from benchmarks.copied_tasks import copy_task, size
from benchmarks.machine import ROOT, provenance
from benchmarks.report import Figure, section, write
from benchmarks.serving import Service, http_client, peak_bytes, serving

DATASET = ROOT / "examples" / "support_tickets.jsonl"
PER_LABEL = 16
LATENCY_WARM_UP, LATENCY_REQUESTS = 10, 50
BATCH, BATCH_ROUNDS = 64, 7
STORED_TASKS = 2000
SHORT_TEXT = "The bill shows an amount that I never agreed to"

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="measure everything once instead of three times")
    options = parser.parse_args(arguments)
    # SIGTERM unwinds the stack, which stops the service and the database.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    figures = measure(times=1 if options.quick else 3)
    origin = provenance("python -m benchmarks.service" + (" --quick" if options.quick else ""))
    report = section("The service", origin, figures)
    write(report)
    print(report)


def measure(times: int) -> list[Figure]:
    """Return all figures in the order of the table."""
    examples, rest = split(rows_of(read_dataset(DATASET)))
    first: list[float] = []
    again: list[float] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ipt-bench-") as name:
        folder = Path(name)
        for number in range(times):
            console.print(f"start {number + 1} of {times} in an empty folder, then on a running database")
            data_dir = folder / str(number)
            data_dir.mkdir()
            with serving(data_dir / "first.log", {"IPT_DATA_DIR": str(data_dir)}) as service:
                first.append(service.seconds)
            with (
                embedded_postgres(data_dir) as database_url,
                serving(data_dir / "second.log", {"IPT_DATABASE_URL": database_url}) as service,
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
            "`ipt serve` in an empty folder: from the start of its process to the first 200 of `/readyz`, which"
            " includes the creation of its PostgreSQL and tables; its worker starts at the same time",
        ),
        start(
            "service ready, database running", again,
            "The same for `ipt serve --worker` on a running PostgreSQL that has the tables, alternately with the above",
        ),
        *figures,
    ]  # fmt: skip


def measure_running(
    service: Service, engine: Engine, examples: list[Row], texts: list[str], adaptations: int
) -> list[Figure]:
    """Measure requests to a ready service, then its memory, then the size of a task in the database."""
    with http_client(service) as http:
        adaptation_figure, task_id = adaptation(service, examples, adaptations)
        figures = [adaptation_figure, latency(http, task_id), batch(http, engine, task_id, texts[:BATCH])]
    return [*figures, *memory(service), storage(engine, task_id)]


def start(what: str, seconds: list[float], how: str) -> Figure:
    """Summarize the times of one kind of start."""
    middle = statistics.median(seconds)
    each = ", ".join(f"{time:.1f}" for time in sorted(seconds))
    return Figure(what, f"{middle:.1f} s", "≤ 10 s", middle <= 10, f"{how}; median of {each}.")


def adaptation(service: Service, examples: list[Row], count: int) -> tuple[Figure, str]:
    """Tune the demo's task `count` times in succession; also return the last task's id."""
    times: list[float] = []
    task_id = ""
    with ServiceClient(service.url, service.key) as client:
        for number in range(count):
            console.print(f"adaptation {number + 1} of {count}")
            with adaptation_progress(console) as show:
                began = time.perf_counter()
                finished = client.wait(
                    client.create_adaptation("support_tickets", examples)["id"], show, poll_seconds=0.1
                )
                times.append(time.perf_counter() - began)
            if finished["state"] != "succeeded":
                raise SystemExit(f"error: the adaptation {finished['state']}: {finished['error']}")
            task_id = str(finished["task_id"])
            console.print(f"  succeeded after {times[-1]:.1f} s")
    labels = len({row["output"] for row in examples})
    how = (
        f"{DATASET.name}, {labels} labels with {PER_LABEL} examples each, from `POST /v1/adaptations` until the client"
        f" sees that it succeeded (polled every 0.1 s); median of {count}. The first one, sent as soon as the service"
        f" was ready, took {times[0]:.1f} s."
    )
    middle = statistics.median(times)
    return Figure("the demo's adaptation", f"{middle:.1f} s", "≤ 45 s", middle <= 45, how), task_id


def latency(http: httpx.Client, task_id: str) -> Figure:
    """Measure single requests of one client."""
    console.print("one short text")
    body = {"inputs": [SHORT_TEXT]}
    times = [1000 * post(http, f"/v1/tasks/{task_id}/predict", body) for _ in range(LATENCY_WARM_UP + LATENCY_REQUESTS)]
    middle, p95 = statistics.median(times[LATENCY_WARM_UP:]), statistics.quantiles(times[LATENCY_WARM_UP:], n=20)[-1]
    how = (
        f"`POST /v1/tasks/{{id}}/predict` with one text of {len(SHORT_TEXT)} characters, measured by a client on a"
        f" keep-alive connection: {LATENCY_REQUESTS} requests after {LATENCY_WARM_UP} to warm up. The goal applies to"
        " the median."
    )
    measured = f"median {middle:.1f} ms, 95th percentile {p95:.1f} ms"
    return Figure("one short text predicted", measured, "≤ 40 ms", middle <= 40, how)


def batch(http: httpx.Client, engine: Engine, task_id: str, texts: list[str]) -> Figure:
    """Compare the same texts sent to as many tasks and to one task."""
    console.print(f"{len(texts)} texts of {len(texts)} tasks, and of one")
    bodies = {
        name: {"requests": [{"task_id": id_, "input": line} for id_, line in zip(ids, texts, strict=True)]}
        for name, ids in (("many", copy_task(engine, task_id, len(texts))), ("one", [task_id] * len(texts)))
    }
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(BATCH_ROUNDS + 1):
        for name in sorted(bodies, reverse=number % 2 == 1):  # each comes second in every other round
            milliseconds = 1000 * post(http, "/v1/predict", bodies[name])
            if number:  # the first round reads the tasks from the database
                times[name].append(milliseconds)
    many, one = statistics.median(times["many"]), statistics.median(times["one"])
    how = (
        f"`POST /v1/predict` with {len(texts)} of the tickets that are not examples: each to its own copy of the task,"
        f" with its own vector, against all to one task; {BATCH_ROUNDS} alternating rounds after one to warm up,"
        " medians."
    )
    measured = f"{many:.0f} ms against {one:.0f} ms: {many / one:.2f}×"
    return Figure(f"{len(texts)} texts of {len(texts)} tasks, of one task", measured, "≤ 1.1×", many <= 1.1 * one, how)


def memory(service: Service) -> list[Figure]:
    """Return the peak memory of the two processes, after all measurements above."""
    # The worker holds a model, so it is the largest of the child processes.
    worker = max(peak_bytes(child) for child in service.process.children(recursive=True))
    how = {
        "API": "Peak resident memory (`VmHWM`; current resident memory where the system does not report a peak) since"
        " `ipt serve` started, after all measurements above.",
        "worker": "The same for the worker that it started.",
    }
    return [
        Figure(f"memory of the {name} process", f"{peak / 1e9:.2f} GB", "≤ 1.2 GB", peak <= 1.2e9, how[name])
        for name, peak in (("API", peak_bytes(service.process)), ("worker", worker))
    ]


def storage(engine: Engine, task_id: str) -> Figure:
    """Measure how much a task adds to the tables that predictions read."""
    console.print(f"{STORED_TASKS} more tasks in the database")
    before, record_before = size(engine, Task, TaskVersion), size(engine, Adaptation)
    copy_task(engine, task_id, STORED_TASKS)
    each = (size(engine, Task, TaskVersion) - before) / STORED_TASKS
    record = (size(engine, Adaptation) - record_before) / STORED_TASKS
    how = (
        f"Growth of `pg_total_relation_size`, indexes included, of `tasks` and `task_versions` by {STORED_TASKS} copies"
        f" of the task, divided by {STORED_TASKS}. Not included: its row in `adaptations` ({record:,.0f} bytes) and its"
        " examples."
    )
    return Figure("a task in the database", f"{each:,.0f} bytes", "≤ 8,000 bytes", each <= 8000, how)


def split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the first examples of every label, which the demo adapts with, and the rest, which it predicts."""
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row["output"]].append(row)
    groups = by_label.values()
    return list(chain(*(g[:PER_LABEL] for g in groups))), list(chain(*(g[PER_LABEL:] for g in groups)))


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> float:
    """Return the seconds until the answer is read."""
    began = time.perf_counter()
    response = http.post(path, json=body)
    seconds = time.perf_counter() - began
    if response.is_error:
        raise SystemExit(f"error: {path} answered {response.status_code}: {response.text}")
    return seconds


if __name__ == "__main__":
    main()
