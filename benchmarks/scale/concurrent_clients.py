"""Many concurrent clients: errors, latency, fairness between them, and the growth of memory."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence

import httpx

from app.settings import DEFAULT_TENANT, Settings
from benchmarks.report import Figure
from benchmarks.scale.many_tasks import Stored
from benchmarks.service import console
from benchmarks.serving import Service

MEMORY_CLIENTS = 16


def concurrent_clients(
    service: Service, stored: Stored, lines: Sequence[str], clients: int, seconds: int
) -> list[Figure]:
    """Let many clients predict with random tasks for some time."""
    console.print(f"{clients} clients for {seconds} s")
    end = time.monotonic() + seconds
    load = asyncio.run(send(service, _task_ids(stored), lines, clients, lambda _: time.monotonic() < end))
    answered = [milliseconds for of_client in load.times for milliseconds in of_client]
    medians = [statistics.median(of_client) for of_client in load.times if of_client]
    spread = max(medians) / min(medians)
    how = (
        f"{clients} clients, each on a connection of its own, send one ticket after another, each to a randomly drawn"
        f" task, for {seconds} s: {len(answered):,} answers, {len(answered) / seconds:.0f} a second; median"
        f" {statistics.median(answered):.0f} ms, 99th percentile {statistics.quantiles(answered, n=100)[-1]:.0f} ms."
        " Spread is the slowest client's median over the fastest's; the clients share the machine with the service."
    )
    return [
        Figure(f"{clients} concurrent clients: errors", str(load.errors), "0", load.errors == 0, how),
        Figure(f"{clients} concurrent clients: spread", f"{spread:.2f}×", "≤ 1.5×", spread <= 1.5, "The same run."),
    ]


def memory_growth(service: Service, stored: Stored, lines: Sequence[str], requests: int) -> Figure:
    """Measure the memory of the API process before and after many requests."""
    # Until the cache of tasks is full, memory is expected to grow.
    warm_up = Settings.model_fields["predict_cached_tasks"].default if requests >= 5000 else requests
    console.print(f"{warm_up + requests:,} requests")
    task_ids = _task_ids(stored)
    asyncio.run(send(service, task_ids, lines, MEMORY_CLIENTS, lambda sent: sent < warm_up))
    before = service.process.memory_info().rss
    load = asyncio.run(send(service, task_ids, lines, MEMORY_CLIENTS, lambda sent: sent < requests))
    growth = service.process.memory_info().rss - before
    how = (
        f"Resident memory of the API process after {requests:,} predictions minus that before them"
        f" ({before / 1e6:.0f} MB), following the runs above and {warm_up:,} more predictions; {MEMORY_CLIENTS}"
        f" clients, randomly drawn tasks, {load.errors} errors."
    )
    return Figure("memory growth", f"{growth / 1e6:+.1f} MB", "≤ 2 %", growth <= 0.02 * before, how)


class Load:
    """What clients measured: milliseconds of each client's answers, the number of errors and of requests sent."""

    def __init__(self, clients: int) -> None:
        self.times: list[list[float]] = [[] for _ in range(clients)]
        self.errors = 0
        self.sent = 0


async def send(
    service: Service, task_ids: Sequence[str], lines: Sequence[str], clients: int, go_on: Callable[[int], bool]
) -> Load:
    """Send predictions from concurrent clients while `go_on`, called with the number of requests sent, is true."""
    load = Load(clients)
    chance = random.Random(clients)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    headers = {"authorization": f"Bearer {service.key}"}

    async def client(http: httpx.AsyncClient, times: list[float]) -> None:
        while go_on(load.sent):
            load.sent += 1
            began = time.perf_counter()
            try:
                path = f"/v1/tasks/{chance.choice(task_ids)}/predict"
                response = await http.post(path, json={"inputs": [chance.choice(lines)]})
            except httpx.TransportError:
                load.errors += 1
                continue
            if response.is_error:
                load.errors += 1
            else:
                times.append(1000 * (time.perf_counter() - began))

    async with httpx.AsyncClient(
        base_url=service.url, headers=headers, timeout=60, trust_env=False, limits=limits
    ) as http:
        await asyncio.gather(*(client(http, times) for times in load.times))
    return load


def _task_ids(stored: Stored) -> list[str]:
    return [stored.task_ids[row] for row in stored.of(DEFAULT_TENANT)]
