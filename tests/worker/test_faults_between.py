"""What happens between a worker and PostgreSQL: a lost COMMIT, a lost reply, delays, silence longer than a lease."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, func, select

import ipt
from app.db.models import TaskVersion
from app.db.server_timeouts import worker_timeouts
from app.db.session import make_engine, transaction
from tests.support.drain import STEPS, NewDrainer, drain_until_succeeded, run
from tests.support.fault_proxy import DatabaseProxy, Fault
from tests.support.jobs import Enqueue, Events, Row

pytestmark = pytest.mark.usefixtures("keep_tuned")


@pytest.fixture
def behind_proxy(proxy: DatabaseProxy) -> Iterator[Engine]:
    """The connections of a worker that reaches its database only through the proxy."""
    engine = make_engine(proxy.database_url, pool_size=1, server_timeouts=worker_timeouts(60.0))
    yield engine
    engine.dispose()


def count_versions(engine: Engine) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(TaskVersion)) or 0


@pytest.mark.parametrize(
    "fault", [Fault.LOSE_COMMIT, Fault.LOSE_COMMIT_REPLY, Fault.DELAY], ids=lambda f: f.name.lower()
)
def test_a_result_is_stored_once(
    new_drainer: NewDrainer,
    proxy: DatabaseProxy,
    behind_proxy: Engine,
    engine: Engine,
    enqueue: Enqueue,
    row: Row,
    events: Events,
    fault: Fault,
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    proxy.set(fault, "task_versions")
    run(new_drainer(database=behind_proxy))
    assert proxy.injected >= 1
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
    assert count_versions(engine) == 1
    assert Counter(event.type for event in events(adaptation_id))["succeeded"] == 1


def test_a_worker_that_hears_nothing_from_the_database_is_replaced_and_stores_nothing_later(
    new_drainer: NewDrainer,
    proxy: DatabaseProxy,
    behind_proxy: Engine,
    engine: Engine,
    enqueue: Enqueue,
    row: Row,
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    steps: list[int] = []
    silent = threading.Event()

    def fall_silent(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 3:
            proxy.set(Fault.HALF_OPEN)
            silent.set()

    short_lease = {"lease_seconds": 1.0, "reap_seconds": 0.1}
    cut_off = threading.Thread(target=run, args=(new_drainer(fall_silent, behind_proxy, **short_lease),), daemon=True)
    cut_off.start()
    assert silent.wait(60)
    drain_until_succeeded(new_drainer(**short_lease), lambda: row(adaptation_id).state)
    proxy.set(Fault.NONE)
    cut_off.join(60)
    assert not cut_off.is_alive()
    assert row(adaptation_id).attempt == 2
    assert count_versions(engine) == 1
