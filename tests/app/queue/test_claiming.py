"""Claims are exclusive, never wait for each other, and respect the subspace and the batch."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select

from app.db.models import Adaptation
from app.db.session import transaction
from app.queue import claiming
from tests.support.claims import SUBSPACE, claim, ids
from tests.support.jobs import Enqueue, Events, Row

pytestmark = pytest.mark.usefixtures("subspace")


def test_a_claim_takes_the_oldest_and_records_it(engine: Engine, enqueue: Enqueue, row: Row, events: Events) -> None:
    queued = [enqueue() for _ in range(3)]
    claimed = claim(engine, free_slots=2, worker_id="host:1")
    assert ids(claimed) == queued[:2]
    first = row(queued[0])
    assert (first.state, first.attempt, first.worker_id) == ("running", 1, "host:1")
    assert first.subspace_id == SUBSPACE
    assert first.lease_token == claimed[0].lease.token
    assert first.started_at is not None
    assert [(event.seq, event.type) for event in events(queued[0])] == [(1, "queued"), (2, "running")]
    assert row(queued[2]).state == "queued"


def test_a_claim_is_exclusive_among_many_workers(engine: Engine, enqueue: Enqueue) -> None:
    queued = {enqueue() for _ in range(24)}
    ready = threading.Barrier(8)

    def work(number: int) -> list[str]:
        ready.wait(timeout=30)
        claimed: list[str] = []
        for _ in range(20):
            claimed += ids(claim(engine, free_slots=2, worker_id=f"w{number}"))
        return claimed

    with ThreadPoolExecutor(8) as workers:
        claimed = [adaptation_id for part in workers.map(work, range(8)) for adaptation_id in part]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == queued


def test_a_claim_does_not_wait_for_another_workers_claim(engine: Engine, enqueue: Enqueue) -> None:
    first, second = enqueue(), enqueue()
    with transaction(engine) as other:
        other.execute(select(Adaptation.id).where(Adaptation.id == first).with_for_update())
        assert ids(claim(engine)) == [second]


def test_only_adaptations_of_the_workers_subspace_are_claimed(engine: Engine, enqueue: Enqueue) -> None:
    enqueue(subspace_id="sub_other")
    own = enqueue(subspace_id=SUBSPACE)
    assert ids(claim(engine)) == [own]


@pytest.mark.parametrize(
    ("attempts", "free_slots", "protected", "joining"),
    [
        ([], 8, 0, 0),
        ([0, 0, 0], 8, 0, 3),
        ([0, 0], 3, 5, 2),
        ([0], 0, 0, 0),
        ([0, 1, 0], 8, 0, 1),
        ([1, 0], 8, 0, 1),
        ([1, 0], 7, 1, 0),
        ([1], 0, 8, 0),
        ([1], 0, 0, 1),
        ([2], 8, 0, 1),
    ],
)
def test_a_retry_runs_alone_and_is_not_overtaken(
    attempts: list[int], free_slots: int, protected: int, joining: int
) -> None:
    assert claiming.count_joining(attempts, free_slots, protected) == joining
