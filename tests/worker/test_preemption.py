"""Who waits for a retried adaptation, and whom it waits for: nobody for longer than a time slice."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

import ipt
from app.db.ids import new_id
from app.db.models import Adaptation, AdaptationEvent
from app.db.session import transaction
from app.queue import lifecycle
from app.settings import Settings
from tests.support.drain import BeforeStep, WatchedModel, run, undisturbed, vector_of
from tests.support.jobs import Enqueue
from worker.drain import Drainer
from worker.time_slices import TimeSlice

pytestmark = pytest.mark.usefixtures("keep_tuned")

Row = Callable[[str], Adaptation]
Events = Callable[[str], list[AdaptationEvent]]
SLICE = 0.5
ENDLESS = {"steps": 10_000, "batch_size": 4}
TINY = {"steps": 5, "batch_size": 4}


@pytest.fixture
def drain(engine: Engine, settings: Settings) -> Callable[..., list[set[str]]]:
    """Drain all that is queued, in slices of `SLICE`; returns which jobs were in the engine, change by change."""

    def drain(before_step: BeforeStep = lambda _: None, **changes: Any) -> list[set[str]]:
        batches: list[set[str]] = []

        def watch(tuning: ipt.TuningEngine) -> None:
            if not batches or batches[-1] != set(tuning.job_ids):
                batches.append(set(tuning.job_ids))
            before_step(tuning)

        changed = settings.model_copy(update={"lease_seconds": 2 * SLICE} | changes)
        run(Drainer(engine, WatchedModel(changed, watch), changed, new_id("worker")))
        return batches

    return drain


@pytest.fixture
def cancel(engine: Engine, row: Row) -> Callable[[str], None]:
    """Ask for a cancellation as the API does."""

    def cancel(adaptation_id: str) -> None:
        with transaction(engine) as session:
            lifecycle.request_cancel(session, row(adaptation_id).tenant_id, adaptation_id)

    return cancel


def reasons(events: list[AdaptationEvent]) -> list[str]:
    return [event.data["reason"] for event in events if event.type == "requeued"]


def started_at(events: list[AdaptationEvent]) -> list[int]:
    """The steps at which workers took the adaptation up."""
    return [event.data["step"] for event in events if event.type == "running"]


def test_a_long_job_keeps_neither_a_retried_one_waiting_nor_who_comes_behind_that(
    drain: Callable[..., list[set[str]]], cancel: Callable[[str], None], enqueue: Enqueue, row: Row, events: Events
) -> None:
    endless = enqueue(tenant="a", hyperparameters=ENDLESS)
    others: list[str] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not others:
            others.append(enqueue(tenant="b", hyperparameters=TINY, attempt=1))
            others.append(enqueue(tenant="c", hyperparameters=TINY))
        elif all(row(one).state == "succeeded" for one in others):
            cancel(endless)

    batches = drain(before_step)
    retried, third = others
    assert [row(one).state for one in (endless, retried, third)] == ["cancelled", "succeeded", "succeeded"]
    assert [batch for batch in batches if retried in batch] == [{retried}]
    assert {endless, third} in batches, "the third joins the batch again"
    assert row(endless).attempt == 1, "to make way is no attempt"
    assert reasons(events(endless)) == ["made_way"]


def test_a_retried_job_that_runs_alone_keeps_nobody_waiting(
    drain: Callable[..., list[set[str]]], cancel: Callable[[str], None], enqueue: Enqueue, row: Row, events: Events
) -> None:
    endless = enqueue(tenant="a", hyperparameters=ENDLESS, attempt=1)
    others: list[str] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not others:
            others.extend(enqueue(tenant=tenant, hyperparameters=TINY) for tenant in "abc")
        elif row(endless).state == "running" and all(row(one).state == "succeeded" for one in others):
            cancel(endless)

    batches = drain(before_step)
    assert batches == [{endless}, set(others), {endless}]
    assert [row(one).state for one in (endless, *others)] == ["cancelled"] + ["succeeded"] * 3
    assert row(endless).attempt == 2, "to make way is no attempt"
    assert reasons(events(endless)) == ["made_way"]


def test_retried_jobs_do_not_take_turns_with_each_other_alone(
    drain: Callable[..., list[set[str]]], cancel: Callable[[str], None], enqueue: Enqueue, row: Row
) -> None:
    endless = [enqueue(hyperparameters=ENDLESS, attempt=1) for _ in range(2)]
    tiny = enqueue(hyperparameters=TINY)

    def before_step(_: ipt.TuningEngine) -> None:
        if row(tiny).state == "succeeded":
            for one in endless:
                cancel(one)

    batches = drain(before_step)
    assert batches[:3] == [{endless[0]}, {endless[1]}, {tiny}]
    assert row(tiny).state == "succeeded"


def test_a_full_batch_makes_way_for_a_retried_job(
    drain: Callable[..., list[set[str]]], cancel: Callable[[str], None], enqueue: Enqueue, row: Row
) -> None:
    endless = {enqueue(hyperparameters=ENDLESS) for _ in range(2)}
    retried = enqueue(hyperparameters=TINY, attempt=1)

    def before_step(_: ipt.TuningEngine) -> None:
        if row(retried).state == "succeeded":
            for one in endless:
                cancel(one)

    batches = drain(before_step, jobs_per_batch=2)
    assert batches[:2] == [endless, {retried}]


@pytest.mark.parametrize("places", [1, 2])
def test_one_tenants_long_jobs_do_not_keep_another_tenant_waiting(
    places: int,
    drain: Callable[..., list[set[str]]],
    cancel: Callable[[str], None],
    enqueue: Enqueue,
    row: Row,
    events: Events,
) -> None:
    endless = [enqueue(tenant="a", hyperparameters=ENDLESS) for _ in range(places)]
    own = enqueue(tenant="a", hyperparameters=TINY)
    others: list[str] = []

    def before_step(_: ipt.TuningEngine) -> None:
        if not others:
            others.append(enqueue(tenant="b", hyperparameters=TINY))
        elif row(others[0]).state == "succeeded" and all(row(one).state == "running" for one in endless):
            for one in endless:
                cancel(one)

    batches = drain(before_step, jobs_per_batch=places, lease_seconds=0.2)
    assert batches[:2] == [set(endless), {*endless[1:], *others}], "the longest makes way"
    back = batches.index(set(endless), 2)
    assert [reasons(events(one)) for one in endless] == [["made_way"]] + [[]] * (places - 1)
    assert not any(own in batch for batch in batches[:back]), "within a tenant's queue there is no overtaking"
    assert row(own).state == "succeeded"


def test_jobs_that_make_way_for_each_other_end_where_they_would_have_undisturbed(
    drain: Callable[..., list[set[str]]],
    engine: Engine,
    settings: Settings,
    enqueue: Enqueue,
    row: Row,
    events: Events,
) -> None:
    asked = {"steps": 40, "batch_size": 8, "learning_rate": 0.05, "restarts": 2}
    jobs = {
        enqueue(tenant="a", hyperparameters=asked | {"seed": 1}, attempt=1): 1,
        enqueue(tenant="b", hyperparameters=asked | {"seed": 2}): 2,
        enqueue(tenant="c", hyperparameters=asked | {"seed": 3}, attempt=2): 3,
    }
    drain(lambda _: time.sleep(0.03), max_attempts=4)
    for adaptation_id, seed in jobs.items():
        done, happened = row(adaptation_id), events(adaptation_id)
        assert done.state == "succeeded"
        assert set(reasons(happened)) == {"made_way"}
        starts = started_at(happened)
        assert starts == sorted(set(starts)), "every slice gets something done"
        expected = undisturbed(settings, asked | {"seed": seed})
        np.testing.assert_allclose(vector_of(engine, done), expected, rtol=1e-4, atol=1e-5)


def test_a_poison_job_that_the_batch_made_way_for_fails_alone(
    drain: Callable[..., list[set[str]]], enqueue: Enqueue, row: Row, events: Events
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
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 3, "internal_error")
    assert all(batch == {poison} for batch in batches if poison in batch)
    assert [(row(one).state, row(one).attempt) for one in neighbours] == [("succeeded", 1)] * 2
    assert all(set(reasons(events(one))) == {"made_way"} for one in neighbours)


def test_a_poison_job_that_kills_its_worker_costs_what_made_way_for_it_no_attempt(
    drain: Callable[..., list[set[str]]], engine: Engine, enqueue: Enqueue, row: Row, events: Events
) -> None:
    neighbour = enqueue(tenant="a", hyperparameters={"steps": 60, "batch_size": 4})
    poison = enqueue(tenant="b", hyperparameters=TINY, attempt=1)

    def before_step(tuning: ipt.TuningEngine) -> None:
        time.sleep(0.03)
        if poison in tuning.job_ids:
            raise SystemExit  # nobody writes anything down

    for _ in range(2):
        with pytest.raises(SystemExit):
            drain(before_step)
        with transaction(engine) as session:
            session.execute(text("UPDATE adaptations SET lease_until = now() WHERE state = 'running'"))
    drain(before_step)
    assert (row(poison).state, row(poison).attempt) == ("failed", 3)
    assert (row(neighbour).state, row(neighbour).attempt) == ("succeeded", 1)
    assert set(reasons(events(neighbour))) == {"made_way"}


def test_a_slice_begins_with_the_first_step_and_lasts_as_long_as_that_took_to_come() -> None:
    time_slice = TimeSlice(3)
    time.sleep(0.2)
    time_slice.record_step(3)
    assert not time_slice.is_over(0.0), "nothing is done yet that a checkpoint would keep"
    time_slice.record_step(4)
    assert not time_slice.is_over(0.0), "reading the examples took longer"
    time.sleep(0.3)
    time_slice.record_step(5)
    assert time_slice.is_over(0.0)
    assert not time_slice.is_over(60.0)
