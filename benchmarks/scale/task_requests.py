"""Requests about one of a million stored tasks: predictions, similar tasks and pages of lists."""

from __future__ import annotations

import random
import statistics
import time

import numpy as np
from sqlalchemy import Engine, text

from app.api_keys import service as api_keys
from app.db.session import transaction
from app.settings import DEFAULT_TENANT
from benchmarks.report import Figure
from benchmarks.scale.many_tasks import (
    CENTRE_NOISE,
    SECOND_VERSIONS,
    SHARES,
    TASK_NOISE,
    TASKS_OF_A_CENTRE,
    UNMOVED,
    Stored,
)
from benchmarks.service import SHORT_TEXT, console, post
from benchmarks.serving import Service, http_client

PREDICT_WARM_UP, PREDICT_ROUNDS, FEW_TASKS = 20, 200, 10
NEIGHBOR_WARM_UP, NEIGHBOR_QUERIES, NEIGHBORS = 10, 50, 10
PAGES, FAILED = 30, 2000


def predictions(service: Service, stored: Stored) -> Figure:
    """Compare predictions with ten cached tasks and with any of all tasks, alternately."""
    console.print("predictions with ten tasks, and with any task")
    chance = random.Random(0)
    task_ids = [stored.task_ids[row] for row in stored.of(DEFAULT_TENANT)]
    few = task_ids[:FEW_TASKS]
    requested = set(few)
    times: dict[str, list[float]] = {"few": [], "any": []}
    cached = 0
    with http_client(service) as http:
        for number in range(PREDICT_WARM_UP + PREDICT_ROUNDS):
            for name in ("few", "any") if number % 2 else ("any", "few"):
                task_id = few[number % FEW_TASKS] if name == "few" else chance.choice(task_ids)
                milliseconds = 1000 * post(http, f"/v1/tasks/{task_id}/predict", {"inputs": [SHORT_TEXT]})
                if number >= PREDICT_WARM_UP:
                    times[name].append(milliseconds)
                    cached += name == "any" and task_id in requested
                requested.add(task_id)
    few_ms, any_ms = statistics.median(times["few"]), statistics.median(times["any"])
    how = (
        f"`POST /v1/tasks/{{id}}/predict` with one short text: {PREDICT_ROUNDS} requests to {FEW_TASKS} tasks that the"
        f" service has in memory, and as many to tasks drawn from the {len(task_ids):,} of one tenant, of which"
        f" {100 * cached / PREDICT_ROUNDS:.0f} % were in memory; alternately, after {PREDICT_WARM_UP} warm-up requests"
        f" each; medians. The database holds {len(stored.task_ids):,} task versions, copies of the demo's task;"
        f" {vector_distribution()}"
    )
    measured = f"{any_ms:.1f} ms against {few_ms:.1f} ms: {any_ms / few_ms:.2f}×"
    return Figure("any task predicted, one of ten", measured, "≤ 1.1×", any_ms <= 1.1 * few_ms, how)


def vector_distribution() -> str:
    """Return the sentences that describe how the vectors were drawn."""
    return (
        f"{100 * (1 - UNMOVED):.0f} % of their vectors are drawn around centres, {TASKS_OF_A_CENTRE} around each"
        f" (standard deviation {TASK_NOISE} in each dimension: a cosine of about 0.96 to each other), each centre"
        f" around a training task of the shipped subspace (standard deviation {CENTRE_NOISE});"
        f" {100 * UNMOVED:.0f} % are initial vectors of the subspace, as if tuning gained nothing."
        f" {100 * SECOND_VERSIONS:.0f} % are second versions of a task."
    )


def neighbors(service: Service, engine: Engine, stored: Stored) -> list[Figure]:
    """Measure latency and recall of the search for similar tasks, for tenants of different size."""
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
        with http_client(service, key) as http:
            queries = np.random.default_rng(0).choice(np.flatnonzero(lengths > 0), NEIGHBOR_WARM_UP + NEIGHBOR_QUERIES)
            for query in queries:
                path = f"/v1/tasks/{stored.task_ids[rows[query]]}/neighbors"
                began = time.perf_counter()
                similar = http.get(path, params={"limit": NEIGHBORS}).raise_for_status().json()["data"]
                times.append(1000 * (time.perf_counter() - began))
                exact = units @ units[query]
                exact[query] = exact[lengths[:, 0] == 0] = -2
                least = np.partition(exact, -NEIGHBORS)[-NEIGHBORS]
                # Many tasks are equally near, and single precision rounds.
                recalls.append(sum(task["similarity"] >= least - 1e-5 for task in similar) / NEIGHBORS)
        times = times[NEIGHBOR_WARM_UP:]
        middle, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        recall = statistics.mean(recalls)
        each.append(f"{len(rows):,} tasks: median {middle:.1f} ms, 95th percentile {p95:.1f} ms, recall {recall:.3f}")
        slowest, worst = max(slowest, middle), min(worst, recall)
    how = (
        f"`GET /v1/tasks/{{id}}/neighbors` for the nearest {NEIGHBORS} of {NEIGHBOR_QUERIES} tasks drawn from each of"
        f" {len(SHARES)} tenants, after {NEIGHBOR_WARM_UP} warm-up requests: {'; '.join(each)}. The goal applies to the"
        " slowest tenant's median. PostgreSQL's `shared_buffers` are a quarter of the machine's memory throughout."
    )
    recall_how = (
        "Share of the tasks returned above that are at least as similar as the last result of an exact search over the"
        " same vectors; the worst tenant's mean."
    )
    return [
        Figure("similar tasks of a task", f"median {slowest:.1f} ms", "≤ 50 ms", slowest <= 50, how),
        Figure("recall of similar tasks", f"{worst:.3f}", "≥ 0.95", worst >= 0.95, recall_how),
    ]


def pages(service: Service, engine: Engine, stored: Stored) -> list[Figure]:
    """Measure the first, middle and last pages of lists."""
    console.print("pages of lists")
    rows = stored.of(DEFAULT_TENANT)
    with transaction(engine) as session:
        # Few have failed, so that without an index a list of failed adaptations reads many rows.
        failed = [stored.adaptation_ids[row] for row in rows[:: max(1, len(rows) // FAILED)]]
        change = text("UPDATE adaptations SET state = 'failed' WHERE id = ANY(:ids)")
        session.execute(change, {"ids": failed})
    lists = {
        "tasks": ("/v1/tasks", {}, [stored.task_ids[row] for row in rows]),
        "adaptations": ("/v1/adaptations", {}, [stored.adaptation_ids[row] for row in rows]),
        "failed adaptations": ("/v1/adaptations", {"state": "failed"}, failed),
    }
    slowest, each = 0.0, []
    with http_client(service) as http:
        for what, (path, filters, ids) in lists.items():
            for depth, place in {"the first": None, "the middle": len(ids) // 2, "the last": 20}.items():
                times = []
                for number in range(PAGES):
                    after = {} if place is None else {"after": ids[place + number]}
                    began = time.perf_counter()
                    page = http.get(path, params=filters | after).raise_for_status().json()
                    times.append(1000 * (time.perf_counter() - began))
                    assert len(page["data"]) == 20
                middle = statistics.median(times)
                slowest = max(slowest, middle)
                each.append(f"{what}, {depth} page {middle:.1f} ms")
    how = (
        f"`GET /v1/tasks` and `GET /v1/adaptations`, pages of 20 out of {len(rows):,}, of which"
        f" {len(failed):,} failed; {PAGES} requests each, medians: {'; '.join(each)}. The goal applies to the slowest."
    )
    return [Figure("a page of a list", f"{slowest:.1f} ms", "≤ 20 ms", slowest <= 20, how)]
