"""The server ends what no client waits for: statements behind locks, and transactions of frozen processes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.db.client_timeout import ClientTimeout
from app.db.models import Adaptation
from app.db.server_timeouts import NO_TIMEOUTS, REQUEST_TIMEOUTS, ServerTimeouts, worker_timeouts
from app.db.session import is_unavailable, make_engine, transaction
from app.queue import lifecycle
from tests.support.jobs import Enqueue, enqueue  # noqa: F401, a fixture

Limited = Callable[..., Engine]


@pytest.fixture
def limited(database_url: str) -> Iterator[Limited]:
    """Make engines on this test's database, each of one connection."""
    engines: list[Engine] = []

    def limited(timeouts: ServerTimeouts, client_seconds: float | None = None) -> Engine:
        engine = make_engine(
            database_url, pool_size=1, server_timeouts=timeouts, client_timeout=ClientTimeout(client_seconds)
        )
        engines.append(engine)
        return engine

    yield limited
    for engine in engines:
        engine.dispose()


@contextmanager
def locked(engine: Engine, adaptation_id: str) -> Iterator[None]:
    """Hold the lock on an adaptation's row."""
    with engine.connect() as connection, connection.begin():
        connection.execute(text("SELECT 1 FROM adaptations WHERE id = :id FOR UPDATE"), {"id": adaptation_id})
        yield


def backends_waiting(engine: Engine) -> int:
    with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return int(connection.execute(text(query)).scalar_one())


def touch(engine: Engine, adaptation_id: str) -> None:
    with transaction(engine) as session:
        session.execute(text("UPDATE adaptations SET step = step + 1 WHERE id = :id"), {"id": adaptation_id})


def test_a_statement_that_its_client_gave_up_leaves_no_backend(
    engine: Engine,
    limited: Limited,
    enqueue: Enqueue,  # noqa: F811
) -> None:
    adaptation_id = enqueue()
    with locked(engine, adaptation_id):
        for _ in range(3):
            with pytest.raises(DBAPIError):
                touch(limited(NO_TIMEOUTS, client_seconds=0.3), adaptation_id)
        deadline = time.monotonic() + 20
        while backends_waiting(engine):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_lock_is_waited_for_only_so_long_and_the_connection_stays_usable(
    engine: Engine,
    limited: Limited,
    enqueue: Enqueue,  # noqa: F811
) -> None:
    adaptation_id = enqueue()
    other = limited(ServerTimeouts(lock=0.2))
    with locked(engine, adaptation_id), pytest.raises(DBAPIError) as raised:
        touch(other, adaptation_id)
    assert is_unavailable(raised.value)
    assert not raised.value.connection_invalidated
    touch(other, adaptation_id)


def test_a_worker_frozen_before_its_commit_keeps_no_adaptation_from_the_reaper(
    engine: Engine,
    limited: Limited,
    enqueue: Enqueue,  # noqa: F811
) -> None:
    adaptation_id = enqueue()
    with transaction(engine) as session:
        session.execute(
            text(
                "UPDATE adaptations SET state = 'running', attempt = 1, lease_token = gen_random_uuid(), "
                "lease_until = now() - interval '1 second', worker_id = 'frozen' WHERE id = :id"
            ),
            {"id": adaptation_id},
        )
    reaped: list[lifecycle.ReapedAdaptation] = []

    def freeze_until_reaped() -> None:
        with locked(limited(ServerTimeouts(idle_in_transaction=1.0)), adaptation_id):
            with transaction(engine) as session:
                assert lifecycle.reap(session) == []
            deadline = time.monotonic() + 20
            while not reaped:
                assert time.monotonic() < deadline
                time.sleep(0.1)
                with transaction(engine) as session:
                    reaped.extend(lifecycle.reap(session))

    with pytest.raises(DBAPIError) as raised:  # the frozen process finds that its connection is gone
        freeze_until_reaped()
    assert is_unavailable(raised.value)
    assert [each.adaptation_id for each in reaped] == [adaptation_id]
    with transaction(engine) as session:
        assert session.get_one(Adaptation, adaptation_id).state == "queued"


def test_a_worker_holds_its_locks_no_longer_than_a_lease(limited: Limited) -> None:
    assert worker_timeouts(60.0).idle_in_transaction == 60.0
    with limited(worker_timeouts(60.0)).connect() as connection:
        shown = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    assert shown == "1min"


def test_requests_have_limits_below_that_of_the_client(limited: Limited) -> None:
    assert REQUEST_TIMEOUTS.statement is not None
    assert REQUEST_TIMEOUTS.statement < ClientTimeout().seconds
    with limited(REQUEST_TIMEOUTS).connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "25s"
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "10s"
