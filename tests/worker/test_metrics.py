"""What a worker counts while it tunes, and the port where it tells."""

import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import torch
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, update

import ipt
from app.db.ids import new_id
from app.db.models import Adaptation
from app.db.session import transaction
from app.settings import Settings
from tests.support.drain import BeforeStep, WatchedModel, run
from tests.support.jobs import Enqueue
from worker import metrics
from worker.drain import Drainer

Grown = Callable[..., float]
STEPS = {"steps": 3, "batch_size": 4}


@pytest.fixture
def drain(engine: Engine, settings: Settings) -> Callable[..., None]:
    """Drain all that is queued; the test is told of each engine step before it."""

    def drain(before_step: BeforeStep = lambda _: None, **changes: Any) -> None:
        changed = settings.model_copy(update=changes)
        run(Drainer(engine, WatchedModel(changed, before_step), changed, new_id("worker")))

    return drain


@pytest.fixture
def grown() -> Grown:
    """By how much a sample has grown since the test began."""

    def samples() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (one.name, frozenset(one.labels.items())): one.value
            for family in REGISTRY.collect()
            for one in family.samples
        }

    before = samples()

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return samples().get(key, 0.0) - before.get(key, 0.0)

    return grown


def test_steps_jobs_waits_runs_and_ends_are_counted(drain: Callable[..., None], enqueue: Enqueue, grown: Grown) -> None:
    together: list[int] = []
    for _ in range(3):
        enqueue(hyperparameters=STEPS)
    enqueue(kind="text2text", hyperparameters=STEPS)
    drain(lambda tuning: together.append(len(tuning.job_ids)))
    assert grown("ipt_engine_steps_total") == grown("ipt_engine_step_jobs_count") == len(together)
    assert grown("ipt_engine_step_jobs_sum") == sum(together)
    assert grown("ipt_adaptation_queue_seconds_count") == 4
    for outcome, count in (("succeeded", 3), ("failed", 1), ("cancelled", 0)):
        assert grown("ipt_adaptations_finished_total", outcome=outcome) == count
        assert grown("ipt_adaptation_run_seconds_count", outcome=outcome) == count
    assert 0 < grown("ipt_adaptation_run_seconds_sum", outcome="succeeded") < 180
    assert REGISTRY.get_sample_value("ipt_worker_model_loaded") == 1


def test_a_batch_that_is_halved_is_counted_and_waiting_again_is_no_wait(
    drain: Callable[..., None], enqueue: Enqueue, grown: Grown
) -> None:
    for _ in range(2):
        enqueue(hyperparameters=STEPS)

    def before_step(tuning: ipt.TuningEngine) -> None:
        if len(tuning.job_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    drain(before_step)
    assert grown("ipt_batch_halvings_total") == 1
    assert grown("ipt_adaptation_run_seconds_count", outcome="handed_back") == 1
    assert grown("ipt_adaptation_queue_seconds_count") == 2
    assert grown("ipt_adaptations_finished_total", outcome="succeeded") == 2


def test_lost_and_expired_leases_are_counted(
    drain: Callable[..., None], engine: Engine, enqueue: Enqueue, grown: Grown
) -> None:
    lost = enqueue(hyperparameters=STEPS)

    def before_step(_: ipt.TuningEngine) -> None:
        with transaction(engine) as session:
            session.execute(update(Adaptation).where(Adaptation.id == lost).values(lease_token="0" * 32))

    drain(before_step)
    assert (grown("ipt_leases_lost_total"), grown("ipt_leases_expired_total")) == (1, 0)
    assert grown("ipt_adaptations_finished_total", outcome="succeeded") == 0
    with transaction(engine) as session:
        session.execute(update(Adaptation).values(lease_until="2000-01-01"))
    drain()
    assert (grown("ipt_leases_lost_total"), grown("ipt_leases_expired_total")) == (1, 1)
    assert grown("ipt_adaptations_finished_total", outcome="succeeded") == 1


def test_the_port_is_this_machines_and_losing_it_to_another_does_no_harm(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    watched = settings.model_copy(update={"metrics_port": port})
    metrics.serve(settings)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")
    metrics.serve(watched)
    families = list(text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics").text))
    assert {"ipt_engine_steps", "ipt_adaptations_finished"} <= {family.name for family in families}
    labels = {name for family in families for one in family.samples for name in one.labels if one.name[:4] == "ipt_"}
    assert labels <= {"outcome", "le", "kind", "method", "reason", "route", "source", "status"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.2:{port}/metrics")
    metrics.serve(watched)
    assert f"metrics_not_served port={port}" in caplog.text
