"""The metrics that a worker counts while it tunes, and the port that serves them."""

import socket
from collections.abc import Callable

import httpx
import pytest
import torch
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, update

import ipt
from app.db.models import Adaptation
from app.db.session import transaction
from app.settings import Settings
from tests.support.drain import BeforeStep, NewDrainer, run
from tests.support.jobs import Enqueue
from worker import metrics

Drain = Callable[..., None]
Increase = Callable[..., float]
STEPS = {"steps": 3, "batch_size": 4}


@pytest.fixture
def drain(new_drainer: NewDrainer) -> Drain:
    """Drain the queue, and call `before_step` before each engine step."""

    def drain(before_step: BeforeStep = lambda _: None) -> None:
        run(new_drainer(before_step))

    return drain


@pytest.fixture
def increase() -> Increase:
    """Return how much a sample has increased since the test began."""

    def samples() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }

    before = samples()

    def increase(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return samples().get(key, 0.0) - before.get(key, 0.0)

    return increase


def test_steps_batch_sizes_queue_times_run_times_and_outcomes_are_counted(
    drain: Drain, enqueue: Enqueue, increase: Increase
) -> None:
    batch_sizes: list[int] = []
    for _ in range(3):
        enqueue(hyperparameters=STEPS)
    enqueue(kind="text2text", hyperparameters=STEPS)
    drain(lambda tuning: batch_sizes.append(len(tuning.job_ids)))
    assert increase("ipt_engine_steps_total") == increase("ipt_engine_step_jobs_count") == len(batch_sizes)
    assert increase("ipt_engine_step_jobs_sum") == sum(batch_sizes)
    assert increase("ipt_adaptation_queue_seconds_count") == 4
    for outcome, count in (("succeeded", 3), ("failed", 1), ("cancelled", 0)):
        assert increase("ipt_adaptations_finished_total", outcome=outcome) == count
        assert increase("ipt_adaptation_run_seconds_count", outcome=outcome) == count
    assert 0 < increase("ipt_adaptation_run_seconds_sum", outcome="succeeded") < 180
    assert REGISTRY.get_sample_value("ipt_worker_model_loaded") == 1


def test_a_halved_batch_is_counted_and_requeued_jobs_do_not_count_as_queued_again(
    drain: Drain, enqueue: Enqueue, increase: Increase
) -> None:
    for _ in range(2):
        enqueue(hyperparameters=STEPS)

    def before_step(tuning: ipt.TuningEngine) -> None:
        if len(tuning.job_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    drain(before_step)
    assert increase("ipt_batch_halvings_total") == 1
    assert increase("ipt_adaptation_run_seconds_count", outcome="handed_back") == 1
    assert increase("ipt_adaptation_queue_seconds_count") == 2
    assert increase("ipt_adaptations_finished_total", outcome="succeeded") == 2


def test_lost_and_expired_leases_are_counted(
    drain: Drain, engine: Engine, enqueue: Enqueue, increase: Increase
) -> None:
    lost = enqueue(hyperparameters=STEPS)

    def before_step(_: ipt.TuningEngine) -> None:
        with transaction(engine) as session:
            session.execute(update(Adaptation).where(Adaptation.id == lost).values(lease_token="0" * 32))

    drain(before_step)
    assert (increase("ipt_leases_lost_total"), increase("ipt_leases_expired_total")) == (1, 0)
    assert increase("ipt_adaptations_finished_total", outcome="succeeded") == 0
    with transaction(engine) as session:
        session.execute(update(Adaptation).values(lease_until="2000-01-01"))
    drain()
    assert (increase("ipt_leases_lost_total"), increase("ipt_leases_expired_total")) == (1, 1)
    assert increase("ipt_adaptations_finished_total", outcome="succeeded") == 1


def test_the_metrics_port_listens_on_loopback_and_a_taken_port_does_no_harm(
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
    labels = {
        name for family in families for sample in family.samples for name in sample.labels if sample.name[:4] == "ipt_"
    }
    assert labels <= {"outcome", "le", "kind", "method", "reason", "route", "source", "status"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.2:{port}/metrics")
    metrics.serve(watched)
    assert f"metrics_not_served port={port}" in caplog.text
