"""Task lookups of concurrent requests share one transaction, and each tenant sees only its own tasks."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import cast
from unittest.mock import Mock

import httpx
import pytest
import torch
from sqlalchemy import Connection, Engine, delete, event, select, text, update
from sqlalchemy.orm import Session

import ipt
from app.db.models import HeldOutRow, Task, TaskVersion
from app.db.session import transaction
from app.errors import AppError, NotFoundError
from app.predictions import repository
from app.predictions.models import Models
from app.predictions.task_lookup import QUESTIONS_PER_LOOKUP, FoundTasks, Question, TaskLookup
from tests.support.service import WorkOff, adaptation_body


@pytest.fixture
def owners(new_client: Callable[[], httpx.Client], work_off: WorkOff, service_engine: Engine) -> list[tuple[str, str]]:
    """Two tenants' ids, each with the id of a task that was tuned once."""
    adaptations = [new_client().post("/v1/adaptations", json=adaptation_body()).json() for _ in range(2)]
    work_off()
    with transaction(service_engine) as session:
        task_ids = [adaptation["task_id"] for adaptation in adaptations]
        rows = session.execute(select(Task.tenant_id, Task.id).where(Task.id.in_(task_ids)))
        return [(tenant_id, task_id) for tenant_id, task_id in rows]


@pytest.fixture
def lookup(service_engine: Engine) -> Iterator[TaskLookup]:
    """A lookup with a model that binds a task without checking it."""
    models = Mock(Models)
    bind = Mock(side_effect=lambda head: ipt.BoundTask(head, torch.as_tensor(head.vector), None))
    models.of_subspace.return_value.predictor.bind = bind
    lookup = TaskLookup(service_engine, cast(Models, models), cached_tasks=10, cached_bytes=10**6)
    yield lookup
    lookup.close()


@contextmanager
def tasks_locked(engine: Engine) -> Iterator[Callable[[], None]]:
    """Block every reader of tasks; the function waits until one is blocked."""
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
    """Record the transactions that begin in the meantime."""
    begun: list[Connection] = []
    record = begun.append
    event.listen(engine, "begin", record)
    try:
        yield begun
    finally:
        event.remove(engine, "begin", record)


def outcome(future: "Future[FoundTasks]") -> object:
    try:
        return future.result(30).keys
    except AppError as error:
        return error.code, error.param


def test_concurrent_lookups_share_a_transaction_and_tenants_stay_apart(
    lookup: TaskLookup, owners: list[tuple[str, str]], service_engine: Engine
) -> None:
    (alpaca, alpaca_task), (buffalo, buffalo_task) = owners
    unknown = ("task_not_found", "here")
    questions = [
        (alpaca, alpaca_task, None, [(alpaca_task, 1)]),
        (alpaca, buffalo_task, None, unknown),
        (alpaca, buffalo_task, 1, unknown),
        (buffalo, buffalo_task, 1, [(buffalo_task, 1)]),
        (buffalo, alpaca_task, 1, unknown),
        (buffalo, buffalo_task, 2, ("version_not_found", "version")),
        (alpaca, alpaca_task, 1, [(alpaca_task, 1)]),
    ]

    def find(tenant: str, task: str, version: int | None) -> "Future[FoundTasks]":
        return lookup.find(tenant, [Question(task, version, "", "here")])

    for _ in range(2):  # first from the database, then from memory
        with transactions(service_engine) as begun:
            with tasks_locked(service_engine) as wait:
                first = find(alpaca, alpaca_task, None)
                wait()
                others = [find(tenant, task, version) for tenant, task, version, _ in questions]
            assert outcome(first) == [(alpaca_task, 1)]
            assert [outcome(future) for future in others] == [expected for *_, expected in questions]
        assert len(begun) == 3, "the lock, the first lookup, and all other lookups together"
    assert not (others[0].result().tasks[0].vector != others[6].result().tasks[0].vector).any()


def test_a_request_as_large_as_a_batch_has_its_own_transaction(
    lookup: TaskLookup, owners: list[tuple[str, str]], service_engine: Engine
) -> None:
    (alpaca, alpaca_task), _ = owners
    question = Question(alpaca_task, None, "", "here")
    with transactions(service_engine) as begun:
        with tasks_locked(service_engine) as wait:
            first = lookup.find(alpaca, [question])
            wait()
            others = [lookup.find(alpaca, [question] * size) for size in (1, QUESTIONS_PER_LOOKUP, 1)]
        sizes = [len(future.result(30).tasks) for future in (first, *others)]
    assert sizes == [1, 1, QUESTIONS_PER_LOOKUP, 1]
    assert len(begun) == 5


def test_a_deleted_version_does_not_answer_from_memory(
    lookup: TaskLookup, owners: list[tuple[str, str]], service_engine: Engine
) -> None:
    (alpaca, alpaca_task), _ = owners
    named = Question(alpaca_task, 1, "", "here")
    assert outcome(lookup.find(alpaca, [named])) == [(alpaca_task, 1)]
    with transaction(service_engine) as session:
        session.execute(delete(HeldOutRow).where(HeldOutRow.task_id == alpaca_task))
        session.execute(update(TaskVersion).where(TaskVersion.task_id == alpaca_task).values(version=2))
    assert outcome(lookup.find(alpaca, [Question(alpaca_task, None, "", "here")])) == [(alpaca_task, 2)]
    assert outcome(lookup.find(alpaca, [named])) == ("version_not_found", "version")


def test_a_version_deleted_during_its_lookup_is_named(
    lookup: TaskLookup, owners: list[tuple[str, str]], service_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alpaca, alpaca_task), _ = owners
    question = Question(alpaca_task, None, "", "here")
    lookup.find(alpaca, [question]).result(30)
    with transaction(service_engine) as session:  # the newest version of a known task is not in memory
        session.execute(delete(HeldOutRow).where(HeldOutRow.task_id == alpaca_task))
        session.execute(update(TaskVersion).where(TaskVersion.task_id == alpaca_task).values(version=2))
    read_versions = repository.versions

    def delete_first(session: Session, keys: set[tuple[str, str, int]]) -> list[TaskVersion]:
        with transaction(service_engine) as other:
            other.execute(delete(Task).where(Task.id == alpaca_task))
        return read_versions(session, keys)

    monkeypatch.setattr(repository, "versions", delete_first)
    with pytest.raises(NotFoundError, match="has no version 2 that can answer"):
        lookup.find(alpaca, [question]).result(30)
