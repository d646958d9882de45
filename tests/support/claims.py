"""Claiming queued adaptations in a subspace of the database only."""

import pytest
from sqlalchemy import Engine, delete

from app.db.models import Adaptation, Task
from app.db.session import transaction
from app.queue import claiming
from app.queue.claiming import ClaimedAdaptation
from app.queue.lifecycle import Lease
from tests.support.jobs import Enqueue

SUBSPACE = "sub_test"


@pytest.fixture
def subspace(enqueue: Enqueue, engine: Engine) -> None:
    """Insert the subspace's row, as a worker does before it claims."""
    adaptation_id = enqueue(subspace_id=SUBSPACE)
    with transaction(engine) as session:
        session.execute(delete(Task).where(Task.id == session.get_one(Adaptation, adaptation_id).task_id))


def claim(engine: Engine, *, free_slots: int = 8, worker_id: str = "w", lease: float = 60) -> list[ClaimedAdaptation]:
    """Claim at most `free_slots` adaptations, for an empty batch."""
    with transaction(engine) as session:
        return claiming.claim(
            session,
            subspace_ids=[SUBSPACE],
            worker_id=worker_id,
            lease_seconds=lease,
            free_slots=free_slots,
            protected=0,
        )


def claim_one(engine: Engine, *, lease: float = 60) -> Lease:
    """Claim the only queued adaptation."""
    (claimed,) = claim(engine, lease=lease)
    return claimed.lease


def ids(claimed: list[ClaimedAdaptation]) -> list[str]:
    """Return the ids of claimed adaptations."""
    return [adaptation.lease.adaptation_id for adaptation in claimed]
