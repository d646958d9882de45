"""A long queue of adaptations: how fast a worker claims, and how fast the API accepts more."""

from __future__ import annotations

import statistics
import time

from sqlalchemy import Engine, func, select

from app.api_keys import service as api_keys
from app.cli.progress import progress
from app.db.models import Adaptation
from app.db.session import transaction
from app.queue import claiming, lifecycle
from app.settings import Settings
from benchmarks.report import Figure
from benchmarks.scale.many_tasks import QUEUED_STEPS, empty_queue, queue
from benchmarks.service import console, post
from benchmarks.serving import Service, http_client

CLAIMS, CLAIM_WARM_UP = 50, 5
TENANTS = 1000
POSTS, POST_WARM_UP = 400, 10
POST_EVERY_SECONDS = 0.15
MOST_POSTS = 2000
"""At least one adaptation of the queue must succeed before this many requests."""
JOBS_PER_BATCH = Settings.model_fields["jobs_per_batch"].default


def claims(engine: Engine, subspace_id: str, queued: int) -> list[Figure]:
    """Measure claims from the queue of one tenant, then from those of many tenants, which stay in the database."""
    figures = []
    for tenants in (1, TENANTS):
        console.print(f"{queued:,} queued adaptations of {tenants:,} tenants")
        with progress(console) as show:
            queue(engine, [tenant_name(number) for number in range(tenants)], queued, show)
        times = [1000 * claim(engine, subspace_id) for _ in range(CLAIM_WARM_UP + CLAIMS)][CLAIM_WARM_UP:]
        middle, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        how = (
            f"`claim` of {JOBS_PER_BATCH} of {queued:,} queued adaptations, committed, while no other worker and no"
            f" service runs; {CLAIMS} claims after {CLAIM_WARM_UP} to warm up, each handed back. The goal applies to"
            " the median."
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


def claim(engine: Engine, subspace_id: str) -> float:
    """Return the seconds of one claim, and hand the adaptations back."""
    began = time.perf_counter()
    with transaction(engine) as session:
        claimed = claiming.claim(
            session,
            subspace_ids=[subspace_id],
            worker_id="benchmark",
            lease_seconds=60,
            free_slots=JOBS_PER_BATCH,
            protected=0,
        )
    seconds = time.perf_counter() - began
    if len(claimed) != JOBS_PER_BATCH:
        raise SystemExit(f"error: claimed {len(claimed)} adaptations instead of {JOBS_PER_BATCH}")
    with transaction(engine) as session:
        for adaptation in claimed:
            lifecycle.release(session, adaptation.lease, reason="worker_stopped", step=0, checkpoint=None)
    return seconds


def posts(service: Service, engine: Engine, examples: list[dict[str, str]], queued: int) -> Figure:
    """Measure how fast new adaptations are accepted while the worker drains the queue."""
    console.print("new adaptations, while the worker drains the queue")
    with transaction(engine) as session:
        _, key = api_keys.issue(session, tenant_name(0))
    while not count_in_state(engine, "running"):
        time.sleep(0.2)
    before = count_in_state(engine, "succeeded")
    succeeded = 0
    times: list[float] = []
    with http_client(service, key) as http:
        while len(times) < POST_WARM_UP + POSTS or not succeeded:
            without = len(times) % len(examples)
            body = {"name": "another", "examples": examples[:without] + examples[without + 1 :]}
            times.append(1000 * post(http, "/v1/adaptations", body))
            time.sleep(POST_EVERY_SECONDS)
            if len(times) >= POST_WARM_UP + POSTS:
                succeeded = count_in_state(engine, "succeeded") - before
            if len(times) > MOST_POSTS:
                raise SystemExit("error: the worker finishes nothing")
    p99 = statistics.quantiles(times[POST_WARM_UP:], n=100)[-1]
    how = (
        f"`POST /v1/adaptations` with {len(examples) - 1} examples: {len(times) - POST_WARM_UP} requests after"
        f" {POST_WARM_UP} to warm up, each {POST_EVERY_SECONDS:g} s after the previous answer, by one of {TENANTS:,}"
        f" tenants with {queued:,} adaptations queued, while the service's worker tunes {JOBS_PER_BATCH} of them at a"
        f" time, {QUEUED_STEPS} steps each, on the same machine ({succeeded} succeeded meanwhile); median"
        f" {statistics.median(times[POST_WARM_UP:]):.1f} ms."
    )
    return Figure("a new adaptation, worker busy", f"99th percentile {p99:.1f} ms", "≤ 50 ms", p99 <= 50, how)


def count_in_state(engine: Engine, state: str) -> int:
    """Count the adaptations of the queue that are in this state."""
    with transaction(engine) as session:
        query = select(func.count()).where(Adaptation.state == state, Adaptation.tenant_id.like("t0%"))
        return session.execute(query).scalar_one()
