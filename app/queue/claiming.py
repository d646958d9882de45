"""The SQL by which a worker claims queued adaptations under a lease.

Functions work inside the caller's transaction and do not commit, as in `lifecycle`.
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
class ClaimedAdaptation:
    """Everything a worker needs to tune: examples are `{"input", "output"}` objects, `attempt` counts from 1.

    `start_vector` is the vector of the version that tuning starts at, None to start at the subspace's.
    """

    lease: Lease
    attempt: int
    subspace_id: str
    kind: str
    hyperparameters: dict[str, Any]
    examples: list[dict[str, str]]
    validation_examples: list[dict[str, str]] | None
    start_vector: list[float] | None
    checkpoint: bytes | None
    step: int
    steps: int

    @property
    def is_retry(self) -> bool:
        """Whether an earlier attempt failed, so that no other adaptation may share the batch."""
        return self.attempt > 1


def count_joining(attempts: Sequence[int], free_slots: int, protected: int) -> int:
    """Return how many queued adaptations, from the first, may join a batch.

    A retry runs alone, so that a poison job fails no other job. A retry whose turn has come is never overtaken,
    because a busy queue would starve it. It needs no free slot: every running job that is not protected is preempted.

    Args:
        attempts: the failed attempts of each queued adaptation, in the order of their turns.
        free_slots: how many more jobs the batch may hold.
        protected: how many running jobs cannot be preempted yet.
    """
    if attempts and attempts[0] > 0:
        return 0 if protected else 1
    first_retry = next((i for i, attempt in enumerate(attempts) if attempt > 0), len(attempts))
    return min(free_slots, first_retry)


# A separate statement after the one that locks the rows, so that it sees every event that an earlier worker wrote.
# SKIP LOCKED: when another worker is serving the tenant at this moment, that worker sets `served_at`.
_CLAIM = text("""
WITH claimed AS (
    UPDATE adaptations
    SET state = 'running', subspace_id = coalesce(
            subspace_id, CASE kind WHEN 'text2text' THEN :text_subspace_id ELSE :default_subspace_id END
        ), attempt = attempt + 1,
        worker_id = :worker_id, lease_token = gen_random_uuid(), lease_until = now() + :lease,
        started_at = coalesce(started_at, now())
    WHERE id = ANY(:ids)
    RETURNING id, tenant_id, task_id, dataset_id, subspace_id, lease_token, attempt, kind, hyperparameters, checkpoint,
        step, steps, start_version, CASE WHEN started_at = now() THEN started_at - created_at END AS queued_for
), event AS (
    INSERT INTO adaptation_events (adaptation_id, seq, type, data)
    SELECT id, 1 + (SELECT coalesce(max(seq), 0) FROM adaptation_events WHERE adaptation_id = claimed.id), 'running',
        jsonb_build_object('attempt', attempt, 'step', step)
    FROM claimed
), served AS (
    UPDATE tenants SET served_at = now() WHERE id IN (
        SELECT id FROM tenants WHERE id IN (SELECT tenant_id FROM claimed) FOR NO KEY UPDATE SKIP LOCKED
    )
)
SELECT claimed.*, datasets.examples, datasets.validation_examples, start.vector::float4[] AS start_vector
FROM claimed JOIN datasets ON datasets.id = claimed.dataset_id
LEFT JOIN task_versions AS start ON start.task_id = claimed.task_id AND start.version = claimed.start_version
    AND start.subspace_id = claimed.subspace_id
""")


def claim(
    session: Session,
    *,
    subspace_ids: Sequence[str],
    worker_id: str,
    lease_seconds: float,
    free_slots: int,
    protected: int,
    idle_tenant_slots: int = 0,
    text_subspace_id: str | None = None,
) -> list[ClaimedAdaptation]:
    """Claim the next queued adaptations of these subspaces, or of none, that may share a batch.

    A retry is claimed even when `free_slots` is 0, provided that no running job is protected. Rows that another worker
    is claiming at this moment are skipped, so the call never waits for a lock.

    Args:
        subspace_ids: the subspaces in which the worker can tune; an adaptation that names none gets the first one.
        free_slots: how many more jobs the batch may hold.
        protected: how many running jobs cannot be preempted yet.
        text_subspace_id: the subspace of text-to-text adaptations that name none, the first one when None.
        idle_tenant_slots: raises `free_slots` to this number if the next turn belongs to a tenant with nothing running.
    """
    queued = turns.lock_next(session, subspace_ids, max(1, free_slots))
    if queued and not queued[0].running:
        free_slots = max(free_slots, idle_tenant_slots)
    joining = [row.id for row in queued[: count_joining([row.attempt for row in queued], free_slots, protected)]]
    if not joining:
        return []
    parameters = {
        "ids": joining,
        "default_subspace_id": subspace_ids[0],
        "text_subspace_id": text_subspace_id or subspace_ids[0],
        "worker_id": worker_id,
        "lease": timedelta(seconds=lease_seconds),
    }
    claimed = {row.id: row for row in session.execute(_CLAIM, parameters)}
    for row in claimed.values():
        if row.queued_for is not None:
            after_commit(session, partial(metrics.QUEUE_SECONDS.observe, row.queued_for.total_seconds()))
    return [
        ClaimedAdaptation(
            lease=Lease(row.id, row.task_id, row.lease_token),
            attempt=row.attempt,
            subspace_id=row.subspace_id,
            kind=row.kind,
            hyperparameters=row.hyperparameters,
            examples=row.examples,
            validation_examples=row.validation_examples,
            start_vector=row.start_vector,
            checkpoint=row.checkpoint,
            step=row.step,
            steps=row.steps,
        )
        for row in (claimed[adaptation_id] for adaptation_id in joining)
    ]
