"""Whose adaptation is next: tenants take turns, so that a long queue of one keeps no other waiting.

The nth in a tenant's queue has turn n + the number that the tenant has running; low turns come first, and among equal
ones the tenant who was served the longest ago. So whoever waits is reached: serving others puts them behind. Within its
tenant's queue an adaptation stands where it was created, or behind all others if it last made way after running alone.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Integer, Row, bindparam, exists, select, text, update
from sqlalchemy.orm import Session

from app.db.models import Adaptation, State, Tenant

_FORGOTTEN_AT_ONCE = 1000
"""A statement takes no more than some tens of thousands of ids; the next look finds the rest."""

# Tenants who have nothing running come first, in the order of their index, which is read until `room` of them are found
# to wait; then those who have. Nobody but the first `room` of either can have one of the first `room` turns, since each
# has an adaptation that waits: the next in its queue, or else PostgreSQL looks for any among all there have ever been.
# The rows are locked last, and no more of them than are taken: another worker's are skipped for the next of the same
# tenant. `room` is written into the statement, since no plan is kept for a limit that is not known, and planning takes
# longer than running.
_NEXT = text("""
WITH claimable AS NOT MATERIALIZED (
    SELECT id, tenant_id, queued_at FROM adaptations
    WHERE state = 'queued' AND (subspace_id = :subspace_id OR subspace_id IS NULL)
), running AS (
    SELECT tenant_id, count(*) AS jobs FROM adaptations WHERE state = 'running' GROUP BY tenant_id
), first AS (
    (SELECT id AS tenant_id, served_at, 0 AS running FROM tenants
    CROSS JOIN LATERAL (SELECT FROM claimable WHERE tenant_id = tenants.id ORDER BY queued_at, id LIMIT 1) waiting
    WHERE waiting_since IS NOT NULL AND id NOT IN (SELECT tenant_id FROM running)
    ORDER BY served_at NULLS FIRST, waiting_since LIMIT :room)
    UNION ALL
    (SELECT id, served_at, jobs FROM running JOIN tenants ON id = tenant_id
    CROSS JOIN LATERAL (SELECT FROM claimable WHERE tenant_id = tenants.id ORDER BY queued_at, id LIMIT 1) waiting
    ORDER BY jobs, served_at NULLS FIRST LIMIT :room)
), turns AS (
    SELECT first.*, queue.queued_at, queue.place FROM first CROSS JOIN LATERAL (
        SELECT queued_at, row_number() OVER (ORDER BY queued_at, id) AS place FROM claimable
        WHERE tenant_id = first.tenant_id ORDER BY queued_at, id LIMIT :room
    ) queue
    ORDER BY running + place, served_at NULLS FIRST, queued_at
    LIMIT :room
), shares AS (
    SELECT tenant_id, served_at, running, count(*) AS share FROM turns GROUP BY tenant_id, served_at, running
), locked AS (
    SELECT shares.*, queue.id, queue.queued_at, queue.attempt FROM shares CROSS JOIN LATERAL (
        SELECT id, queued_at, attempt FROM adaptations
        WHERE state = 'queued' AND (subspace_id = :subspace_id OR subspace_id IS NULL)
            AND tenant_id = shares.tenant_id
        ORDER BY queued_at, id LIMIT shares.share
        FOR UPDATE SKIP LOCKED
    ) queue
)
SELECT id, attempt, running FROM locked
ORDER BY running + row_number() OVER (PARTITION BY tenant_id ORDER BY queued_at, id),
    served_at NULLS FIRST, queued_at, id
""").bindparams(bindparam("room", type_=Integer, literal_execute=True))


def next_in_turn(session: Session, subspace_id: str, room: int) -> Sequence[Row[Any]]:
    """`id` and `attempt` of the queued adaptations of this subspace, or of none, whose turn it is; at most `room`.

    `running` is how many more their tenant has at work, with any worker. They are in the order of their turns, and
    locked. Whoever takes them up notes that their tenants were served.
    """
    return session.execute(_NEXT, {"subspace_id": subspace_id, "room": room}).all()


def forget_idle(session: Session) -> None:
    """Note who has nothing queued or running any more, so that claims need not look for it."""
    idle = (Tenant.waiting_since.is_not(None), ~_has("queued"), ~_has("running"))
    # Queueing holds a foreign key's lock on the tenant until it is committed. So where the row can be locked for update
    # nobody is queueing, and the statement after that sees whoever has queued before.
    query = select(Tenant.id).where(*idle).limit(_FORGOTTEN_AT_ONCE).with_for_update(skip_locked=True)
    locked = session.scalars(query).all()
    if locked:
        session.execute(
            update(Tenant)
            .where(Tenant.id.in_(locked), *idle)
            .values(waiting_since=None)
            .execution_options(synchronize_session=False)
        )


def _has(state: State) -> ColumnElement[bool]:
    return exists().where(Adaptation.tenant_id == Tenant.id, Adaptation.in_state(state))
