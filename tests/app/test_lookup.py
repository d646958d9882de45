"""The tasks of requests that wait at the same time are read together, and each tenant still sees its own alone."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import Engine, text

from app.db.session import transaction
from tests.app.conftest import Shared, WorkOff, adaptation_body


@pytest.fixture
def two(new_client: Callable[[], httpx.Client], work_off: WorkOff) -> list[tuple[httpx.Client, str]]:
    """Two tenants, each with a task that was tuned once."""
    clients = [new_client(), new_client()]
    tasks = [client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"] for client in clients]
    work_off()
    return list(zip(clients, tasks, strict=True))


@contextmanager
def nobody_reads_tasks(engine: Engine) -> Iterator[Callable[[int], None]]:
    """Hold up whoever reads tasks; the function waits until so many transactions are held up."""
    with transaction(engine) as session:
        session.execute(text("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE"))

        def wait_for(number: int) -> None:
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tasks'::regclass")
            deadline = time.monotonic() + 30
            while session.scalar(waiting) != number:
                assert time.monotonic() < deadline
                time.sleep(0.01)

        yield wait_for


def test_what_waits_together_is_read_together_and_every_tenant_gets_its_own(
    two: list[tuple[httpx.Client, str]], service_engine: Engine
) -> None:
    (alpaca, of_alpaca), (buffalo, of_buffalo) = two

    def ask(client: httpx.Client, task_id: str, version: int | None) -> tuple[int, object]:
        response = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": ["hello"], "version": version})
        return response.status_code, response.json().get("task_version", response.json().get("error", {}).get("code"))

    unknown, none = (404, "task_not_found"), (404, "version_not_found")
    questions = [
        (alpaca, of_alpaca, None, (200, 1)),
        (alpaca, of_buffalo, None, unknown),
        (alpaca, of_buffalo, 1, unknown),
        (buffalo, of_buffalo, 1, (200, 1)),
        (buffalo, of_alpaca, 1, unknown),
        (buffalo, of_buffalo, 2, none),
        (alpaca, of_alpaca, 1, (200, 1)),
    ]
    for _ in range(2):  # of tasks that are not in memory, and then of those that are
        with ThreadPoolExecutor(len(questions) + 1) as pool:
            with nobody_reads_tasks(service_engine) as wait_for:
                first = pool.submit(ask, alpaca, of_alpaca, None)
                wait_for(1)
                answers = [pool.submit(ask, client, task, version) for client, task, version, _ in questions]
                time.sleep(0.5)  # for all of them to arrive
                wait_for(1)  # and none of them reads by itself
            assert first.result() == (200, 1)
            assert [answer.result() for answer in answers] == [expected for *_, expected in questions]


def test_keys_that_are_looked_up_together_let_each_in_as_its_own_tenant(
    two: list[tuple[httpx.Client, str]], shared: Shared
) -> None:
    """Known and unknown ones in one burst; the unknown one begins as a known one does."""
    (alpaca, of_alpaca), (buffalo, of_buffalo) = two
    key = alpaca.headers["Authorization"]
    stranger = httpx.Client(base_url=shared.base_url, headers={"Authorization": f"{key[:-4]}AAAA"}, timeout=60)

    def seen(client: httpx.Client) -> object:
        response = client.get("/v1/tasks")
        return [task["id"] for task in response.json()["data"]] if response.status_code == 200 else response.status_code

    callers = [alpaca, buffalo, stranger] * 16
    with stranger, ThreadPoolExecutor(len(callers)) as pool:
        assert list(pool.map(seen, callers)) == [[of_alpaca], [of_buffalo], 401] * 16
