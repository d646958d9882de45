"""Preemption: a retry and first attempts block each other for no longer than a time slice."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

import ipt
from app.db.models import AdaptationEvent
from app.db.session import transaction
from app.queue import lifecycle
from app.queue.lifecycle import MAX_LOSSES
from app.settings import Settings
from tests.support.drain import BeforeStep, NewDrainer, run, stored_vector, undisturbed_vector
from tests.support.jobs import Enqueue, Events, Row
from worker.time_slices import TimeSlice

pytestmark = pytest.mark.usefixtures("keep_tuned")

Drain = Callable[..., list[set[str]]]
Cancel = Callable[[str], None]
SLICE_SECONDS = 0.5
ENDLESS = {"steps": 10_000, "batch_size": 4}
TINY = {"steps": 5, "batch_size": 4}


@pytest.fixture
def drain(new_drainer: NewDrainer) -> Drain:
    """Drain the queue with short time slices; return the ids of each distinct batch, in order."""

    def drain(before_step: BeforeStep = lambda _: None, **changes: Any) -> list[set[str]]:
        batches: list[set[str]] = []

        def watch(tuning: ipt.TuningEngine) -> None:
            if not batches or batches[-1] != set(tuning.job_ids):
                batches.append(set(tuning.job_ids))
            before_step(tuning)

        run(new_drainer(watch, **{"lease_seconds": 2 * SLICE_SECONDS} | changes))
        return batches

    return drain


@pytest.fixture
def cancel(engine: Engine, row: Row) -> Cancel:
    """Request a cancellation as the API does."""

    def cancel(adaptation_id: str) -> None:
        with transaction(engine) as session:
            lifecycle.request_cancel(session, row(adaptation_id).tenant_id, adaptation_id)

    return cancel


def requeue_reasons(events: list[AdaptationEvent]) -> list[str]:
    return [event.data["reason"] for event in events if event.type == "requeued"]


def resumed_at(events: list[AdaptationEvent]) -> list[int]:
    """Return the steps at which workers claimed the adaptation."""
    return [event.data["step"] for event in events if event.type == "running"]


def test_a_long_job_blocks_neither_a_retry_nor_the_jobs_queued_behind_it(
    drain: Drain, cancel: Cancel, enqueue: Enqueue, row: Row, events: Events
) -> None:
    endless = enqueue(tenant="a", hyperparameters=ENDLESS)
    others: list[str] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not others:
            others.append(enqueue(tenant="b", hyperparameters=TINY, attempt=1))
            others.append(enqueue(tenant="c", hyperparameters=TINY))
        elif all(row(job).state == "succeeded" for job in others):
            cancel(endless)

    batches = drain(before_step)
    retry, third = others
    assert [row(job).state for job in (endless, retry, third)] == ["cancelled", "succeeded", "succeeded"]
    assert [batch for batch in batches if retry in batch] == [{retry}]
    assert {endless, third} in batches, "the third job does not join the preempted job"
    assert row(endless).attempt == 1, "preemption counts no attempt"
    assert requeue_reasons(events(endless)) == ["made_way"]


def test_a_retry_that_runs_alone_blocks_no_job(
    drain: Drain, cancel: Cancel, enqueue: Enqueue, row: Row, events: Events
) -> None:
    endless = enqueue(tenant="a", hyperparameters=ENDLESS, attempt=1)
    others: list[str] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not others:
            others.extend(enqueue(tenant=tenant, hyperparameters=TINY) for tenant in "abc")
        elif row(endless).state == "running" and all(row(job).state == "succeeded" for job in others):
            cancel(endless)

    batches = drain(before_step)
    assert batches == [{endless}, set(others), {endless}]
    assert [row(job).state for job in (endless, *others)] == ["cancelled"] + ["succeeded"] * 3
    assert row(endless).attempt == 2, "preemption counts no attempt"
    assert requeue_reasons(events(endless)) == ["made_way"]


def test_retries_that_preempt_each_other_do_not_starve_a_first_attempt(
    drain: Drain, cancel: Cancel, enqueue: Enqueue, row: Row
) -> None:
    endless = [enqueue(hyperparameters=ENDLESS, attempt=1) for _ in range(2)]
    tiny = enqueue(hyperparameters=TINY)

    def before_step(_: ipt.TuningEngine) -> None:
        if row(tiny).state == "succeeded":
            for job in endless:
                cancel(job)

    batches = drain(before_step)
    assert batches[:3] == [{endless[0]}, {endless[1]}, {tiny}]
    assert row(tiny).state == "succeeded"


def test_a_retry_preempts_a_full_batch(drain: Drain, cancel: Cancel, enqueue: Enqueue, row: Row) -> None:
    endless = {enqueue(hyperparameters=ENDLESS) for _ in range(2)}
    retry = enqueue(hyperparameters=TINY, attempt=1)

    def before_step(_: ipt.TuningEngine) -> None:
        if row(retry).state == "succeeded":
            for job in endless:
                cancel(job)

    batches = drain(before_step, jobs_per_batch=2)
    assert batches[:2] == [endless, {retry}]


@pytest.mark.parametrize("slots", [1, 2])
def test_one_tenants_long_jobs_do_not_block_another_tenant(
    slots: int,
    drain: Drain,
    cancel: Cancel,
    enqueue: Enqueue,
    row: Row,
    events: Events,
) -> None:
    endless = [enqueue(tenant="a", hyperparameters=ENDLESS) for _ in range(slots)]
    next_of_tenant = enqueue(tenant="a", hyperparameters=TINY)
    others: list[str] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not others:
            others.append(enqueue(tenant="b", hyperparameters=TINY))
        elif row(others[0]).state == "succeeded" and all(row(job).state == "running" for job in endless):
            for job in endless:
                cancel(job)

    batches = drain(before_step, jobs_per_batch=slots, lease_seconds=0.2)
    assert batches[:2] == [set(endless), {*endless[1:], *others}], "the longest-running job is not preempted"
    resumed = batches.index(set(endless), 2)
    assert [requeue_reasons(events(job)) for job in endless] == [["made_way"]] + [[]] * (slots - 1)
    assert not any(next_of_tenant in batch for batch in batches[:resumed]), "a preempted job lost its place"
    assert row(next_of_tenant).state == "succeeded"


def test_preempted_jobs_end_with_the_same_vectors_as_undisturbed_jobs(
    drain: Drain,
    engine: Engine,
    settings: Settings,
    enqueue: Enqueue,
    row: Row,
    events: Events,
) -> None:
    hyperparameters = {"steps": 40, "batch_size": 8, "learning_rate": 0.05, "restarts": 2}
    jobs = {
        enqueue(tenant="a", hyperparameters=hyperparameters | {"seed": 1}, attempt=1): 1,
        enqueue(tenant="b", hyperparameters=hyperparameters | {"seed": 2}): 2,
        enqueue(tenant="c", hyperparameters=hyperparameters | {"seed": 3}, attempt=2): 3,
    }
    drain(lambda _: time.sleep(0.03), max_attempts=4)
    for adaptation_id, seed in jobs.items():
        done, history = row(adaptation_id), events(adaptation_id)
        assert done.state == "succeeded"
        assert set(requeue_reasons(history)) == {"made_way"}
        steps = resumed_at(history)
        assert steps == sorted(set(steps)), "a time slice made no progress"
        expected = undisturbed_vector(settings, hyperparameters | {"seed": seed})
        np.testing.assert_allclose(stored_vector(engine, done), expected, rtol=1e-4, atol=1e-5)


def test_only_the_poison_job_fails_after_it_preempts_a_batch(
    drain: Drain, enqueue: Enqueue, row: Row, events: Events
) -> None:
    neighbours = [enqueue(tenant=tenant, hyperparameters={"steps": 60, "batch_size": 4}) for tenant in "ab"]
    poison = enqueue(tenant="c", hyperparameters=TINY, attempt=1)

    def before_step(tuning: ipt.TuningEngine) -> None:
        time.sleep(0.03)
        if poison in tuning.job_ids:
            raise ValueError

    batches = drain(before_step)
    failed = row(poison)
    assert failed.error is not None
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 4, "internal_error")
    assert all(batch == {poison} for batch in batches if poison in batch)
    assert [(row(job).state, row(job).attempt) for job in neighbours] == [("succeeded", 1)] * 2
    assert all(set(requeue_reasons(events(job))) == {"made_way"} for job in neighbours)


def test_a_poison_job_that_kills_its_worker_costs_the_preempted_job_no_attempt(
    drain: Drain, engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    neighbour = enqueue(tenant="a", hyperparameters={"steps": 60, "batch_size": 4})
    poison = enqueue(tenant="b", hyperparameters=TINY, attempt=1)

    def before_step(tuning: ipt.TuningEngine) -> None:
        time.sleep(0.03)
        if poison in tuning.job_ids:
            raise SystemExit  # the worker ends without storing an outcome

    for _ in range(MAX_LOSSES):
        with pytest.raises(SystemExit):
            drain(before_step)
        with transaction(engine) as session:
            session.execute(text("UPDATE adaptations SET lease_until = now() WHERE state = 'running'"))
    drain(before_step)
    assert (row(poison).state, row(poison).attempt) == ("failed", 1 + MAX_LOSSES)
    assert (row(neighbour).state, row(neighbour).attempt) == ("succeeded", 1)
    assert set(requeue_reasons(events(neighbour))) == {"made_way"}


def test_a_time_slice_starts_with_the_first_step_and_lasts_as_long_as_reaching_it_took() -> None:
    time_slice = TimeSlice(3)
    time.sleep(0.2)
    time_slice.record_step(3)
    assert not time_slice.is_over(0.0), "no step is done that a checkpoint would keep"
    time_slice.record_step(4)
    assert not time_slice.is_over(0.0), "the slice is shorter than reading the examples was"
    time.sleep(0.3)
    time_slice.record_step(5)
    assert time_slice.is_over(0.0)
    assert not time_slice.is_over(60.0)
