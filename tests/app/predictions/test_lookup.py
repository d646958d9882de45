"""The keys and tasks of requests that wait at the same time are read together, and each tenant sees its own alone."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import cast
from unittest.mock import Mock

import httpx
import pytest
from sqlalchemy import Connection, Engine, event, select, text

import ipt
from app.api_keys import service as api_keys
from app.db.models import Task
from app.db.session import transaction
from app.errors import AppError
from app.predictions.lookup import QUESTIONS_PER_LOOKUP, FoundTasks, Question, TaskLookup
from app.predictions.model import Model
from tests.support.service import WorkOff, adaptation_body


@pytest.fixture
def owners(new_client: Callable[[], httpx.Client], work_off: WorkOff, service_engine: Engine) -> list[tuple[str, str]]:
    """Two tenants' ids, each with that of a task that was tuned once."""
    made = [new_client().post("/v1/adaptations", json=adaptation_body()).json() for _ in range(2)]
    work_off()
    with transaction(service_engine) as session:
        rows = session.execute(select(Task.tenant_id, Task.id).where(Task.id.in_([one["task_id"] for one in made])))
        return [(tenant_id, task_id) for tenant_id, task_id in rows]


@pytest.fixture
def lookup(service_engine: Engine) -> Iterator[TaskLookup]:
    """One of one's own, behind which a task is named by its vector's first number."""
    model = Mock(Model)
    model.predictor.bind = Mock(side_effect=lambda head: Mock(ipt.BoundTask, vector=head.vector))
    made = TaskLookup(service_engine, cast(Model, model), cached_tasks=10)
    yield made
    made.close()


@contextmanager
def nobody_reads_tasks(engine: Engine) -> Iterator[Callable[[], None]]:
    """Hold up whoever reads tasks; the function waits until somebody does."""
    with transaction(engine) as session:
        session.execute(text("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE"))

        def wait() -> None:
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tasks'::regclass")
            deadline = time.monotonic() + 30
            while not session.scalar(waiting):
                assert time.monotonic() < deadline
                time.sleep(0.01)

        yield wait


@contextmanager
def transactions(engine: Engine) -> Iterator[list[Connection]]:
    """Those that are begun meanwhile."""
    begun: list[Connection] = []
    note = begun.append
    event.listen(engine, "begin", note)
    try:
        yield begun
    finally:
        event.remove(engine, "begin", note)


def outcome(future: "Future[FoundTasks]") -> object:
    try:
        return future.result(30).keys
    except AppError as error:
        return error.code, error.param


def test_what_waits_together_is_read_together_and_every_tenant_gets_its_own(
    lookup: TaskLookup, owners: list[tuple[str, str]], service_engine: Engine
) -> None:
    (alpaca, of_alpaca), (buffalo, of_buffalo) = owners
    unknown = ("task_not_found", "here")
    questions = [
        (alpaca, of_alpaca, None, [(of_alpaca, 1)]),
        (alpaca, of_buffalo, None, unknown),
        (alpaca, of_buffalo, 1, unknown),
        (buffalo, of_buffalo, 1, [(of_buffalo, 1)]),
        (buffalo, of_alpaca, 1, unknown),
        (buffalo, of_buffalo, 2, ("version_not_found", "version")),
        (alpaca, of_alpaca, 1, [(of_alpaca, 1)]),
    ]

    def find(tenant: str, task: str, version: int | None) -> "Future[FoundTasks]":
        return lookup.find(tenant, [Question(task, version, "", "here")])

    for _ in range(2):  # of tasks that are not in memory, and then of those that are
        with transactions(service_engine) as begun:
            with nobody_reads_tasks(service_engine) as wait:
                first = find(alpaca, of_alpaca, None)
                wait()
                found = [find(tenant, task, version) for tenant, task, version, _ in questions]
            assert outcome(first) == [(of_alpaca, 1)]
            assert [outcome(future) for future in found] == [expected for *_, expected in questions]
        assert len(begun) == 3, "the one that held all others up, that of the first, and that of all others"
    assert not (found[0].result().tasks[0].vector != found[6].result().tasks[0].vector).any()


def test_a_request_as_large_as_a_batch_is_looked_up_alone(
    lookup: TaskLookup, owners: list[tuple[str, str]], service_engine: Engine
) -> None:
    (alpaca, of_alpaca), _ = owners
    question = Question(of_alpaca, None, "", "here")
    with transactions(service_engine) as begun:
        with nobody_reads_tasks(service_engine) as wait:
            first = lookup.find(alpaca, [question])
            wait()
            found = [lookup.find(alpaca, [question] * size) for size in (1, QUESTIONS_PER_LOOKUP, 1)]
        sizes = [len(future.result(30).tasks) for future in (first, *found)]
    assert sizes == [1, 1, QUESTIONS_PER_LOOKUP, 1]
    assert len(begun) == 5


def test_keys_that_are_looked_up_together_let_each_in_as_its_own_tenant(engine: Engine) -> None:
    with transaction(engine) as session:
        (one, key), (other, other_key) = (api_keys.issue(session, tenant) for tenant in ("a", "b"))
        revoked, revoked_key = api_keys.issue(session, "a")
        api_keys.revoke(session, revoked.id)
        forged = key[:-1] + ("A" if key[-1] != "A" else "B")  # which begins as the real one does
        asked = [other_key, forged, key, revoked_key, "", key]
        callers = api_keys.callers_with(session, asked)
    found = [caller and (caller.tenant_id, caller.key_id) for caller in callers]
    assert found == [("b", other.id), None, ("a", one.id), None, None, ("a", one.id)]
