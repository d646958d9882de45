"""The SQL by which a worker takes up queued adaptations: those whose turn it is, under a lease.

As `lifecycle`, which moves them on, it works inside its caller's transaction and commits nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.session import after_commit
from app.queue import metrics, turns
from app.queue.lifecycle import Lease


@dataclass(frozen=True, slots=True)
class Claimed:
    """All that a worker needs to tune: examples are `{"input", "output"}` objects, `attempt` counts from 1."""

    lease: Lease
    attempt: int
    kind: str
    hyperparameters: dict[str, Any]
    examples: list[dict[str, str]]
    validation_examples: list[dict[str, str]] | None
    checkpoint: bytes | None
    step: int
    steps: int

    @property
    def is_retried(self) -> bool:
        """Whether an attempt has gone wrong before, so that nothing may run beside this one."""
        return self.attempt > 1


def may_share_a_batch(attempts: Sequence[int], room: int, running: int) -> int:
    """How many of the queued adaptations may join a batch that has `room` and in which `running` stand their ground.

    `attempts` counts what each one has behind it, in the order of their turns. One that has failed before runs alone,
    so that what it does to its process it does to nobody else; and once its turn has come it is not overtaken, or
    else a busy queue would starve it. It needs no room, since whatever does not stand its ground makes way for it.
    """
    if attempts and attempts[0] > 0:
        return 0 if running else 1
    return min(room, next((i for i, attempt in enumerate(attempts) if attempt > 0), len(attempts)))


# A statement after the one that locked the rows, so that it sees every event of whoever had them before. A tenant whom
# another worker is serving at this moment is left to that one.
_TAKE_UP = text("""
WITH taken AS (
    UPDATE adaptations
    SET state = 'running', subspace_id = :subspace_id, attempt = attempt + 1, worker_id = :worker_id,
        lease_token = gen_random_uuid(), lease_until = now() + :lease, started_at = coalesce(started_at, now())
    WHERE id = ANY(:ids)
    RETURNING id, tenant_id, task_id, dataset_id, lease_token, attempt, kind, hyperparameters, checkpoint, step, steps,
        CASE WHEN started_at = now() THEN started_at - created_at END AS queued_for
), event AS (
    INSERT INTO adaptation_events (adaptation_id, seq, type, data)
    SELECT id, 1 + (SELECT coalesce(max(seq), 0) FROM adaptation_events WHERE adaptation_id = taken.id), 'running',
        jsonb_build_object('attempt', attempt, 'step', step)
    FROM taken
), served AS (
    UPDATE tenants SET served_at = now() WHERE id IN (
        SELECT id FROM tenants WHERE id IN (SELECT tenant_id FROM taken) FOR NO KEY UPDATE SKIP LOCKED
    )
)
SELECT taken.*, datasets.examples, datasets.validation_examples
FROM taken JOIN datasets ON datasets.id = taken.dataset_id
""")


def claim(
    session: Session,
    *,
    subspace_id: str,
    worker_id: str,
    lease_seconds: float,
    room: int,
    running: int,
    room_for_idle: int = 0,
) -> list[Claimed]:
    """Take up the queued adaptations whose turn it is, at most `room`, that may share a batch in this subspace.

    With nothing `running` that would stand its ground, one that has to run alone is taken up even without room.
    `room_for_idle` is there for a tenant who has nothing at work with any worker, if it is such a one's turn. Rows that
    another worker is claiming at this moment are skipped, never waited for.
    """
    queued = turns.next_in_turn(session, subspace_id, max(1, room))
    if queued and not queued[0].running:
        room = max(room, room_for_idle)
    joining = [row.id for row in queued[: may_share_a_batch([row.attempt for row in queued], room, running)]]
    if not joining:
        return []
    given = {
        "ids": joining,
        "subspace_id": subspace_id,
        "worker_id": worker_id,
        "lease": timedelta(seconds=lease_seconds),
    }
    taken = {row.id: row for row in session.execute(_TAKE_UP, given)}
    for row in taken.values():
        if row.queued_for is not None:
            after_commit(session, partial(metrics.QUEUE_SECONDS.observe, row.queued_for.total_seconds()))
    return [
        Claimed(
            lease=Lease(row.id, row.task_id, row.lease_token),
            attempt=row.attempt,
            kind=row.kind,
            hyperparameters=row.hyperparameters,
            examples=row.examples,
            validation_examples=row.validation_examples,
            checkpoint=row.checkpoint,
            step=row.step,
            steps=row.steps,
        )
        for row in (taken[adaptation_id] for adaptation_id in joining)
    ]
