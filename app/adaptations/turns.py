"""Whose adaptation is next: tenants take turns, so that a long queue of one keeps no other waiting.

A tenant's nth oldest queued adaptation has turn n + the number that it has running; low turns come first, and among
equal ones the tenant who was served the longest ago. So whoever waits is reached: serving others puts them behind.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

# `waiting` looks into the index once for each tenant, whatever the length of the queues. Nobody but the first `room`
# of them can have one of the first `room` turns, since each has an adaptation that waits. The rows are locked last, and
# no more of them than are taken: another worker's are skipped for the next of the same tenant.
_NEXT = text("""
WITH RECURSIVE claimable AS NOT MATERIALIZED (
    SELECT id, tenant_id, created_at FROM adaptations
    WHERE state = 'queued' AND (subspace_id = :subspace_id OR subspace_id IS NULL)
), waiting AS (
    (SELECT tenant_id, created_at FROM claimable ORDER BY tenant_id, created_at LIMIT 1)
    UNION ALL
    SELECT following.* FROM waiting CROSS JOIN LATERAL (
        SELECT tenant_id, created_at FROM claimable
        WHERE tenant_id > waiting.tenant_id ORDER BY tenant_id, created_at LIMIT 1
    ) following
), running AS (
    SELECT tenant_id, count(*) AS jobs FROM adaptations WHERE state = 'running' GROUP BY tenant_id
), first AS (
    SELECT waiting.tenant_id, tenants.served_at, coalesce(running.jobs, 0) AS running
    FROM waiting JOIN tenants ON tenants.id = waiting.tenant_id LEFT JOIN running USING (tenant_id)
    ORDER BY coalesce(running.jobs, 0), tenants.served_at NULLS FIRST, waiting.created_at
    LIMIT :room
), turns AS (
    SELECT first.*, queue.created_at, queue.place FROM first CROSS JOIN LATERAL (
        SELECT created_at, row_number() OVER (ORDER BY created_at, id) AS place FROM claimable
        WHERE tenant_id = first.tenant_id ORDER BY created_at, id LIMIT :room
    ) queue
    ORDER BY running + place, served_at NULLS FIRST, created_at
    LIMIT :room
), shares AS (
    SELECT tenant_id, served_at, running, count(*) AS share FROM turns GROUP BY tenant_id, served_at, running
), locked AS (
    SELECT shares.*, queue.id, queue.created_at, queue.attempt FROM shares CROSS JOIN LATERAL (
        SELECT id, created_at, attempt FROM adaptations
        WHERE state = 'queued' AND (subspace_id = :subspace_id OR subspace_id IS NULL)
            AND tenant_id = shares.tenant_id
        ORDER BY created_at, id LIMIT shares.share
        FOR UPDATE SKIP LOCKED
    ) queue
)
SELECT id, attempt FROM locked
ORDER BY running + row_number() OVER (PARTITION BY tenant_id ORDER BY created_at, id),
    served_at NULLS FIRST, created_at, id
""")


def next_in_turn(session: Session, subspace_id: str, room: int) -> Sequence[Row[Any]]:
    """`id` and `attempt` of the queued adaptations of this subspace, or of none, whose turn it is; at most `room`.

    They are in the order of their turns, and locked. Whoever takes them up notes that their tenants were served.
    """
    return session.execute(_NEXT, {"subspace_id": subspace_id, "room": room}).all()
