"""The service with a million tasks, a hundred thousand queued adaptations and many concurrent clients.

    python -m benchmarks.scale [--quick] [--versions N] [--queued N] [--clients N] [--seconds N] [--requests N]

Starts the service and its PostgreSQL in a temporary folder (under TMPDIR) with default settings; `IPT_*` variables are
ignored. A million task versions take about 11 GB of disk there, and 2 GB of memory while their index is built. Writes
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from sqlalchemy import make_url, text

from app.cli.client import ServiceClient
from app.cli.dataset_file import read_dataset, rows_of
from app.cli.progress import adaptation_progress, progress
from app.db import migrate
from app.db.client_timeout import ClientTimeout
from app.db.embedded import embedded_postgres
from app.db.embedded_access import SERVICE_ROLE, SUPERUSER
from app.db.session import make_engine
from benchmarks.machine import provenance
from benchmarks.report import Figure, section, write
from benchmarks.scale.concurrent_clients import concurrent_clients, memory_growth
from benchmarks.scale.many_tasks import build_index, store
from benchmarks.scale.queued_adaptations import claims, posts
from benchmarks.scale.task_requests import neighbors, pages, predictions
from benchmarks.service import DATASET, console, split
from benchmarks.serving import Service, serving


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="use far smaller defaults")
    sizes = {
        "versions": (1_000_000, 20_000, "task versions in the database"),
        "queued": (100_000, 5_000, "adaptations in the queue"),
        "clients": (64, 64, "concurrent clients"),
        "seconds": (60, 10, "seconds for which the clients send requests"),
        "requests": (10_000, 500, "requests between the two measurements of memory"),
    }
    for name, (full, _, what) in sizes.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} (default: {full})")
    options = parser.parse_args(arguments)
    for name, (full, quick, _) in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    # SIGTERM unwinds the stack, which stops the service and the database.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    figures = []
    for figure in measure(options):
        console.print(f"  {figure.what}: {figure.measured}", highlight=False)
        figures.append(figure)
    command_line = sys.argv[1:] if arguments is None else arguments
    write(report := section("Scale", provenance(" ".join(["python -m benchmarks.scale", *command_line])), figures))
    print(report)


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Yield all figures in the order of the table, each as soon as it is measured."""
    examples, rest = split(rows_of(read_dataset(DATASET)))
    lines = [row["input"] for row in rest]
    with tempfile.TemporaryDirectory(prefix="ipt-scale-") as name:
        folder = Path(name)
        configure(folder)
        with embedded_postgres(folder) as database_url:
            engine = make_engine(database_url, client_timeout=ClientTimeout(math.inf))
            migrate.upgrade(engine)
            try:
                environment = {"IPT_DATABASE_URL": database_url}
                with serving(folder / "adapt.log", environment) as service:
                    task_id, subspace_id = tuned_task(service, examples)
                with progress(console) as show:
                    stored = store(engine, task_id, options.versions, show)
                began = time.perf_counter()
                with progress(console) as show:
                    build_index(engine, show)
                console.print(f"  built in {(time.perf_counter() - began) / 60:.1f} minutes")
                with serving(folder / "tasks.log", environment) as service:
                    yield predictions(service, stored)
                    yield from neighbors(service, engine, stored)
                    yield from pages(service, engine, stored)
                    yield from concurrent_clients(service, stored, lines, options.clients, options.seconds)
                    yield memory_growth(service, stored, lines, options.requests)
                yield from claims(engine, subspace_id, options.queued)
                with serving(folder / "queue.log", environment) as service:
                    yield posts(service, engine, examples, options.queued)
            finally:
                engine.dispose()


def configure(folder: Path) -> None:
    """Give a new database the memory that docs/deployment.md recommends, and let rows be copied without checks."""
    with embedded_postgres(folder) as database_url:
        engine = make_engine(make_url(database_url).set(username=SUPERUSER).render_as_string(hide_password=False))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(
                text(f"ALTER SYSTEM SET shared_buffers = '{psutil.virtual_memory().total // 4 >> 20}MB'")
            )
            connection.execute(text(f"GRANT SET ON PARAMETER session_replication_role TO {SERVICE_ROLE}"))
        engine.dispose()


def tuned_task(service: Service, examples: list[dict[str, str]]) -> tuple[str, str]:
    """Tune the task that is copied; return its id and the id of its subspace."""
    console.print("the task that is copied")
    with ServiceClient(service.url, service.key) as client, adaptation_progress(console) as show:
        adaptation = client.wait(client.create_adaptation("support_tickets", examples)["id"], show, poll_seconds=0.5)
    if adaptation["state"] != "succeeded":
        raise SystemExit(f"error: the adaptation {adaptation['state']}: {adaptation['error']}")
    return str(adaptation["task_id"]), str(adaptation["subspace_id"])


if __name__ == "__main__":
    main()
