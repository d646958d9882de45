"""The service with a million tasks, a hundred thousand queued adaptations and many callers at once.

    python -m benchmarks.scale [--quick] [--versions N] [--queued N] [--clients N] [--seconds N] [--requests N]

Needs nothing that runs already: the service and its PostgreSQL are started in a temporary folder (under TMPDIR), with
the settings' defaults whatever `IPT_*` variables hold. A million task versions take about 11 GB of disk there and
2 GB of memory while their index is built. Writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import psutil
from rich.console import Console
from sqlalchemy import Engine, func, select, text

from app.api_keys import service as api_keys
from app.cli.client import ServiceClient
from app.cli.dataset_file import read_dataset
from app.cli.progress import adaptation_progress, progress
from app.db import migrate
from app.db.embedded import embedded_postgres
from app.db.models import Adaptation
from app.db.patience import Patience
from app.db.session import make_engine, transaction
from app.queue import claiming, lifecycle
from app.settings import DEFAULT_TENANT, Settings
from benchmarks.machine import provenance
from benchmarks.many_tasks import (
    AT_A_START,
    CENTRE_NOISE,
    QUEUED_STEPS,
    SECOND_VERSIONS,
    SHARES,
    TASK_NOISE,
    TASKS_OF_A_CENTRE,
    Stored,
    build_index,
    empty_queue,
    queue,
    store,
)
from benchmarks.report import Figure, section, write
from benchmarks.service import DATASET, SHORT_TEXT, post, split
from benchmarks.serving import Service, serving

PREDICT_WARM_UP, PREDICT_ROUNDS, FEW_TASKS = 20, 200, 10
NEIGHBOR_WARM_UP, NEIGHBOR_QUERIES, NEIGHBORS = 10, 50, 10
PAGES, FAILED = 30, 2000
CLAIMS, CLAIM_WARM_UP = 50, 5
TENANTS = 1000
POSTS, POST_WARM_UP = 400, 10
POST_EVERY_SECONDS = 0.15
MOST_POSTS = 2000
"""Before that, some adaptation of the queue has to succeed."""

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="far smaller numbers, unless others are given")
    sizes = {
        "versions": (1_000_000, 20_000, "task versions in the database"),
        "queued": (100_000, 5_000, "adaptations in the queue"),
        "clients": (64, 64, "callers at once"),
        "seconds": (60, 10, "for how long they call"),
        "requests": (10_000, 500, "requests over which the memory may not grow"),
    }
    for name, (full, _, what) in sizes.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} (default: {full})")
    asked = parser.parse_args(arguments)
    for name, (full, quick, _) in sizes.items():
        if getattr(asked, name) is None:
            setattr(asked, name, quick if asked.quick else full)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    figures = []
    for figure in measure(asked):
        console.print(f"  {figure.what}: {figure.measured}", highlight=False)
        figures.append(figure)
    given = sys.argv[1:] if arguments is None else arguments
    write(report := section("Scale", provenance(" ".join(["python -m benchmarks.scale", *given])), figures))
    print(report)


def measure(asked: argparse.Namespace) -> Iterator[Figure]:
    """All figures, in the order of the table, each as soon as it is known."""
    examples, rest = split(read_dataset(DATASET))
    lines = [row["input"] for row in rest]
    with tempfile.TemporaryDirectory(prefix="ipt-scale-") as name:
        folder = Path(name)
        configure(folder)
        with embedded_postgres(folder) as database_url:
            engine = make_engine(database_url, patience=Patience(math.inf))  # a million rows take their time
            migrate.upgrade(engine)
            try:
                environment = {"IPT_DATABASE_URL": database_url}
                with serving(folder / "adapt.log", environment) as service:
                    task_id, subspace_id = tuned_task(service, examples)
                with progress(console) as show:
                    stored = store(engine, task_id, asked.versions, show)
                began = time.perf_counter()
                with progress(console) as show:
                    build_index(engine, show)
                console.print(f"  built in {(time.perf_counter() - began) / 60:.1f} minutes")
                with serving(folder / "tasks.log", environment) as service:
                    yield predictions(service, stored)
                    yield from neighbors(service, engine, stored)
                    yield from pages(service, engine, stored)
                    yield from callers(service, stored, lines, asked)
                yield from claims(engine, subspace_id, asked.queued)
                with serving(folder / "queue.log", environment) as service:
                    yield posts(service, engine, examples, asked.queued)
            finally:
                engine.dispose()


def configure(folder: Path) -> None:
    """Give a new database the memory that docs/deployment.md tells operators to give theirs."""
    with embedded_postgres(folder) as database_url:
        engine = make_engine(database_url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(
                text(f"ALTER SYSTEM SET shared_buffers = '{psutil.virtual_memory().total // 4 >> 20}MB'")
            )
        engine.dispose()


def tuned_task(service: Service, examples: list[dict[str, str]]) -> tuple[str, str]:
    """Tune the task that is copied; returns its id and its subspace's."""
    console.print("the task that is copied")
    with ServiceClient(service.url, service.key) as client, adaptation_progress(console) as show:
        done = client.wait(client.create_adaptation("support_tickets", examples)["id"], show, poll_seconds=0.5)
    if done["state"] != "succeeded":
        raise SystemExit(f"error: the adaptation {done['state']}: {done['error']}")
    return str(done["task_id"]), str(done["subspace_id"])


def caller(service: Service, key: str | None = None) -> httpx.Client:
    """A connection, with the operator's key or another."""
    headers = {"authorization": f"Bearer {key or service.key}"}
    return httpx.Client(base_url=service.url, headers=headers, timeout=60, trust_env=False)


def predictions(service: Service, stored: Stored) -> Figure:
    """Ten tasks over and over, and any of all, in turn."""
    console.print("predictions of ten tasks, and of any")
    chance = random.Random(0)
    own = [stored.task_ids[row] for row in stored.of(DEFAULT_TENANT)]
    few = own[:FEW_TASKS]
    asked = set(few)
    times: dict[str, list[float]] = {"few": [], "any": []}
    known = 0
    with caller(service) as http:
        for number in range(PREDICT_WARM_UP + PREDICT_ROUNDS):
            for name in ("few", "any") if number % 2 else ("any", "few"):
                task_id = few[number % FEW_TASKS] if name == "few" else chance.choice(own)
                took = 1000 * post(http, f"/v1/tasks/{task_id}/predict", {"inputs": [SHORT_TEXT]})
                if number >= PREDICT_WARM_UP:
                    times[name].append(took)
                    known += name == "any" and task_id in asked
                asked.add(task_id)
    few_ms, any_ms = statistics.median(times["few"]), statistics.median(times["any"])
    how = (
        f"`POST /v1/tasks/{{id}}/predict` with one short text, {PREDICT_ROUNDS} of {FEW_TASKS} tasks, which the service"
        f" had in memory, and as many of tasks drawn from the {len(own):,} of one tenant, of which it had"
        f" {100 * known / PREDICT_ROUNDS:.0f} %; one of each in turn after {PREDICT_WARM_UP} to warm up, medians."
        f" The database holds {len(stored.task_ids):,} task versions, copies of the demo's task; {vectors_are()}"
    )
    measured = f"{any_ms:.1f} ms against {few_ms:.1f} ms: {any_ms / few_ms:.2f}×"
    return Figure("any task predicted, one of ten", measured, "≤ 1.1×", any_ms <= 1.1 * few_ms, how)


def vectors_are() -> str:
    """How the vectors were drawn."""
    return (
        f"{100 * (1 - AT_A_START):.0f} % of their vectors are drawn around centres, one for {TASKS_OF_A_CENTRE} of them"
        f" (standard deviation {TASK_NOISE} in each direction: a cosine of about 0.96 to each other), each centre"
        f" around a task that the shipped subspace was found on (standard deviation {CENTRE_NOISE});"
        f" {100 * AT_A_START:.0f} % are the subspace's own starts, unmoved, as where tuning gained nothing."
        f" {100 * SECOND_VERSIONS:.0f} % are second versions of a task."
    )


def neighbors(service: Service, engine: Engine, stored: Stored) -> list[Figure]:
    """Similar tasks, for tenants of different size."""
    slowest, worst, each = 0.0, 1.0, []
    for tenant in SHARES:
        with transaction(engine) as session:
            _, key = api_keys.issue(session, tenant)
        rows = stored.of(tenant)
        console.print(f"neighbors among {len(rows):,}")
        units = stored.vectors[rows]
        lengths = np.linalg.norm(units, axis=1, keepdims=True)
        units /= np.maximum(lengths, 1e-9)
        times, recalls = [], []
        with caller(service, key) as http:
            asked = np.random.default_rng(0).choice(np.flatnonzero(lengths > 0), NEIGHBOR_WARM_UP + NEIGHBOR_QUERIES)
            for place in asked:
                path = f"/v1/tasks/{stored.task_ids[rows[place]]}/neighbors"
                began = time.perf_counter()
                found = http.get(path, params={"limit": NEIGHBORS}).raise_for_status().json()["data"]
                times.append(1000 * (time.perf_counter() - began))
                exact = units @ units[place]
                exact[place] = exact[lengths[:, 0] == 0] = -2
                least = np.partition(exact, -NEIGHBORS)[-NEIGHBORS]
                # Many are equally near; single precision rounds.
                recalls.append(sum(one["similarity"] >= least - 1e-5 for one in found) / NEIGHBORS)
        times = times[NEIGHBOR_WARM_UP:]
        middle, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        recall = statistics.mean(recalls)
        each.append(f"{len(rows):,} tasks: median {middle:.1f} ms, 95th percentile {p95:.1f} ms, recall {recall:.3f}")
        slowest, worst = max(slowest, middle), min(worst, recall)
    how = (
        f"`GET /v1/tasks/{{id}}/neighbors` for the nearest {NEIGHBORS} of {NEIGHBOR_QUERIES} tasks drawn from each of"
        f" {len(SHARES)} tenants after {NEIGHBOR_WARM_UP} to warm up: {'; '.join(each)}. The goal is on the slowest"
        " tenant's median. PostgreSQL's `shared_buffers` are a quarter of the machine's memory throughout."
    )
    found_how = (
        "Share of the answers of the above that are at least as similar as the last of exact search, which is computed"
        " here from the vectors; the worst tenant's mean."
    )
    return [
        Figure("similar tasks of a task", f"median {slowest:.1f} ms", "≤ 50 ms", slowest <= 50, how),
        Figure("recall of similar tasks", f"{worst:.3f}", "≥ 0.95", worst >= 0.95, found_how),
    ]


def pages(service: Service, engine: Engine, stored: Stored) -> list[Figure]:
    """Pages of lists: the first, those in the middle, and the last."""
    console.print("pages of lists")
    rows = stored.of(DEFAULT_TENANT)
    with transaction(engine) as session:
        # Few have failed, so that a list of those has far to look where it has no index.
        failed = [stored.adaptation_ids[row] for row in rows[:: max(1, len(rows) // FAILED)]]
        change = text("UPDATE adaptations SET state = 'failed' WHERE id = ANY(:ids)")
        session.execute(change, {"ids": failed})
    lists = {
        "tasks": ("/v1/tasks", {}, [stored.task_ids[row] for row in rows]),
        "adaptations": ("/v1/adaptations", {}, [stored.adaptation_ids[row] for row in rows]),
        "failed adaptations": ("/v1/adaptations", {"state": "failed"}, failed),
    }
    slowest, each = 0.0, []
    with caller(service) as http:
        for what, (path, wanted, ids) in lists.items():
            for depth, place in {"the first": None, "the middle": len(ids) // 2, "the last": 20}.items():
                times = []
                for number in range(PAGES):
                    after = {} if place is None else {"after": ids[place + number]}
                    began = time.perf_counter()
                    page = http.get(path, params=wanted | after).raise_for_status().json()
                    times.append(1000 * (time.perf_counter() - began))
                    assert len(page["data"]) == 20
                middle = statistics.median(times)
                slowest = max(slowest, middle)
                each.append(f"{what}, {depth} page {middle:.1f} ms")
    how = (
        f"`GET /v1/tasks` and `GET /v1/adaptations`, pages of 20 out of {len(rows):,}, of which"
        f" {len(failed):,} failed; {PAGES} of each, medians: {'; '.join(each)}. The goal is on the slowest."
    )
    return [Figure("a page of a list", f"{slowest:.1f} ms", "≤ 20 ms", slowest <= 20, how)]


def callers(service: Service, stored: Stored, lines: Sequence[str], asked: argparse.Namespace) -> list[Figure]:
    """Many at once, then what the process holds in memory before and after many requests."""
    console.print(f"{asked.clients} callers for {asked.seconds} s")
    own = [stored.task_ids[row] for row in stored.of(DEFAULT_TENANT)]
    end = time.monotonic() + asked.seconds
    told = asyncio.run(call(service, own, lines, asked.clients, lambda _: time.monotonic() < end))
    answered = [one for of_caller in told.times for one in of_caller]
    medians = [statistics.median(of_caller) for of_caller in told.times if of_caller]
    spread = max(medians) / min(medians)
    how = (
        f"{asked.clients} callers, each on a connection of its own, send one ticket after another, each to a task drawn"
        f" anew, for {asked.seconds} s: {len(answered):,} answers, {len(answered) / asked.seconds:.0f} a second; median"
        f" {statistics.median(answered):.0f} ms, 99th percentile {statistics.quantiles(answered, n=100)[-1]:.0f} ms."
        " Spread is the slowest caller's median over the fastest's; the callers share the machine with the service."
    )
    figures = [
        Figure(f"{asked.clients} callers at once: errors", str(told.errors), "0", told.errors == 0, how),
        Figure(f"{asked.clients} callers at once: spread", f"{spread:.2f}×", "≤ 1.5×", spread <= 1.5, "The same run."),
    ]
    # Until the memory of tasks is full, it grows as it shall.
    warm_up = Settings.model_fields["predict_cached_tasks"].default if asked.requests >= 5000 else asked.requests
    console.print(f"{warm_up + asked.requests:,} requests")
    asyncio.run(call(service, own, lines, 16, lambda sent: sent < warm_up))
    before = service.process.memory_info().rss
    counted = asyncio.run(call(service, own, lines, 16, lambda sent: sent < asked.requests))
    growth = service.process.memory_info().rss - before
    how = (
        f"Resident memory of the API process after {asked.requests:,} predictions, less that before them"
        f" ({before / 1e6:.0f} MB), after the above and {warm_up:,} more; 16 callers, tasks drawn anew,"
        f" {counted.errors} errors."
    )
    small = growth <= 0.02 * before
    return [*figures, Figure("memory growth", f"{growth / 1e6:+.1f} MB", "≤ 2 %", small, how)]


class Told:
    """What callers saw: milliseconds of each one's answers, and how many were no answers."""

    def __init__(self, clients: int) -> None:
        self.times: list[list[float]] = [[] for _ in range(clients)]
        self.errors = 0
        self.sent = 0


async def call(
    service: Service, task_ids: Sequence[str], lines: Sequence[str], clients: int, go_on: Callable[[int], bool]
) -> Told:
    """Ask as many callers at once until `go_on`, which is told how many requests were sent, says no."""
    told = Told(clients)
    chance = random.Random(clients)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    headers = {"authorization": f"Bearer {service.key}"}

    async def one(http: httpx.AsyncClient, times: list[float]) -> None:
        while go_on(told.sent):
            told.sent += 1
            began = time.perf_counter()
            try:
                path = f"/v1/tasks/{chance.choice(task_ids)}/predict"
                response = await http.post(path, json={"inputs": [chance.choice(lines)]})
            except httpx.TransportError:
                told.errors += 1
                continue
            if response.is_error:
                told.errors += 1
            else:
                times.append(1000 * (time.perf_counter() - began))

    async with httpx.AsyncClient(
        base_url=service.url, headers=headers, timeout=60, trust_env=False, limits=limits
    ) as http:
        await asyncio.gather(*(one(http, times) for times in told.times))
    return told


def claims(engine: Engine, subspace_id: str, queued: int) -> list[Figure]:
    """What a worker waits for its next adaptations, where one tenant waits, and where many do; the latter stay."""
    figures = []
    room = Settings.model_fields["jobs_per_batch"].default
    for tenants in (1, TENANTS):
        console.print(f"{queued:,} queued adaptations of {tenants:,} tenants")
        with progress(console) as show:
            queue(engine, [tenant_name(number) for number in range(tenants)], queued, show)
        times = [1000 * claim(engine, subspace_id, room) for _ in range(CLAIM_WARM_UP + CLAIMS)][CLAIM_WARM_UP:]
        middle, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        how = (
            f"`claim` of {room} of {queued:,} queued adaptations, committed, with no other worker and no service"
            f" beside it; {CLAIMS} after {CLAIM_WARM_UP} to warm up, each handed back. The goal is on the median."
        )
        figures.append(
            Figure(
                f"a claim, {tenants:,} tenant{'s' * (tenants > 1)} waiting",
                f"median {middle:.1f} ms, 95th percentile {p95:.1f} ms", "≤ 10 ms", middle <= 10, how,
            )
        )  # fmt: skip
        if tenants == 1:
            empty_queue(engine)
    return figures


def tenant_name(number: int) -> str:
    return f"t{number:06}"


def claim(engine: Engine, subspace_id: str, room: int) -> float:
    """Seconds for one claim, which is then handed back."""
    began = time.perf_counter()
    with transaction(engine) as session:
        taken = claiming.claim(
            session, subspace_id=subspace_id, worker_id="benchmark", lease_seconds=60, free_slots=room, protected=0
        )
    seconds = time.perf_counter() - began
    if len(taken) != room:
        raise SystemExit(f"error: claimed {len(taken)} adaptations instead of {room}")
    with transaction(engine) as session:
        for one in taken:
            lifecycle.release(session, one.lease, reason="worker_stopped", step=0, checkpoint=None)
    return seconds


def posts(service: Service, engine: Engine, examples: list[dict[str, str]], queued: int) -> Figure:
    """New adaptations while the worker is at work on the queue."""
    console.print("new adaptations, while the worker drains the queue")
    with transaction(engine) as session:
        _, key = api_keys.issue(session, tenant_name(0))
    while not worked(engine, "running"):
        time.sleep(0.2)
    before = worked(engine, "succeeded")
    succeeded = 0
    times: list[float] = []
    with caller(service, key) as http:
        while len(times) < POST_WARM_UP + POSTS or not succeeded:
            without = len(times) % len(examples)
            body = {"name": "another", "examples": examples[:without] + examples[without + 1 :]}
            times.append(1000 * post(http, "/v1/adaptations", body))
            time.sleep(POST_EVERY_SECONDS)
            if len(times) >= POST_WARM_UP + POSTS:
                succeeded = worked(engine, "succeeded") - before
            if len(times) > MOST_POSTS:
                raise SystemExit("error: the worker finishes nothing")
    p99 = statistics.quantiles(times[POST_WARM_UP:], n=100)[-1]
    how = (
        f"`POST /v1/adaptations` with {len(examples) - 1} examples, {len(times) - POST_WARM_UP} after {POST_WARM_UP} to"
        f" warm up, each {POST_EVERY_SECONDS:g} s after the answer to the last, by one of {TENANTS:,} tenants with"
        f" {queued:,} adaptations queued, while the service's worker tunes"
        f" {Settings.model_fields['jobs_per_batch'].default} of them at a time, {QUEUED_STEPS} steps each, on the same"
        f" machine ({succeeded} succeeded meanwhile); median {statistics.median(times[POST_WARM_UP:]):.1f} ms."
    )
    return Figure("a new adaptation, worker busy", f"99th percentile {p99:.1f} ms", "≤ 50 ms", p99 <= 50, how)


def worked(engine: Engine, state: str) -> int:
    """How many of the queue's adaptations are in this state."""
    with transaction(engine) as session:
        query = select(func.count()).where(Adaptation.state == state, Adaptation.tenant_id.like("t0%"))
        return session.execute(query).scalar_one()


if __name__ == "__main__":
    main()
