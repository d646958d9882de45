"""Round robin among tenants: the order in which workers claim queued adaptations.

The nth adaptation in a tenant's queue has turn n plus the number of adaptations that the tenant has running. Lower
turns come first; among equal turns, the tenant that was served the longest ago comes first. So one tenant's long queue
cannot starve another tenant. Within a tenant's queue, adaptations stand in the order of their creation, except that a
preempted retry goes to the end.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Integer, Row, bindparam, exists, select, text, update
from sqlalchemy.orm import Session

from app.db.models import Adaptation, State, Tenant

_IDLE_BATCH = 1000
"""Most tenants cleared by one call, because PostgreSQL limits a statement's parameters; the next call clears more."""

# The first `slots` turns can belong only to the first `slots` waiting tenants with nothing running, read in the order
# of their index, and the first `slots` waiting tenants that have adaptations running. The LATERAL ... LIMIT 1 makes
# PostgreSQL look up the next adaptation in each queue; without it, the planner scans all adaptations.
# Rows are locked last, and only as many as are returned: SKIP LOCKED replaces a row that another worker has locked by
# the same tenant's next row.
# `slots` is rendered as a literal: with an unknown limit PostgreSQL plans the query anew at every call, which takes
# longer than running it.
_NEXT = text("""
WITH claimable AS NOT MATERIALIZED (
    SELECT id, tenant_id, queued_at FROM adaptations
    WHERE state = 'queued' AND (subspace_id = ANY(:subspace_ids) OR subspace_id IS NULL)
), running AS (
    SELECT tenant_id, count(*) AS jobs FROM adaptations WHERE state = 'running' GROUP BY tenant_id
), first AS (
    (SELECT id AS tenant_id, served_at, 0 AS running FROM tenants
    CROSS JOIN LATERAL (SELECT FROM claimable WHERE tenant_id = tenants.id ORDER BY queued_at, id LIMIT 1) waiting
    WHERE waiting_since IS NOT NULL AND id NOT IN (SELECT tenant_id FROM running)
    ORDER BY served_at NULLS FIRST, waiting_since LIMIT :slots)
    UNION ALL
    (SELECT id, served_at, jobs FROM running JOIN tenants ON id = tenant_id
    CROSS JOIN LATERAL (SELECT FROM claimable WHERE tenant_id = tenants.id ORDER BY queued_at, id LIMIT 1) waiting
    ORDER BY jobs, served_at NULLS FIRST LIMIT :slots)
), turns AS (
    SELECT first.*, queue.queued_at, queue.place FROM first CROSS JOIN LATERAL (
        SELECT queued_at, row_number() OVER (ORDER BY queued_at, id) AS place FROM claimable
        WHERE tenant_id = first.tenant_id ORDER BY queued_at, id LIMIT :slots
    ) queue
    ORDER BY running + place, served_at NULLS FIRST, queued_at
    LIMIT :slots
), shares AS (
    SELECT tenant_id, served_at, running, count(*) AS share FROM turns GROUP BY tenant_id, served_at, running
), locked AS (
    SELECT shares.*, queue.id, queue.queued_at, queue.attempt FROM shares CROSS JOIN LATERAL (
        SELECT id, queued_at, attempt FROM adaptations
        WHERE state = 'queued' AND (subspace_id = ANY(:subspace_ids) OR subspace_id IS NULL)
            AND tenant_id = shares.tenant_id
        ORDER BY queued_at, id LIMIT shares.share
        FOR UPDATE SKIP LOCKED
    ) queue
)
SELECT id, attempt, running FROM locked
ORDER BY running + row_number() OVER (PARTITION BY tenant_id ORDER BY queued_at, id),
    served_at NULLS FIRST, queued_at, id
""").bindparams(bindparam("slots", type_=Integer, literal_execute=True))


def lock_next(session: Session, subspace_ids: Sequence[str], slots: int) -> Sequence[Row[Any]]:
    """Lock and return the next queued adaptations of these subspaces or of no subspace, in turn order.

    The caller that claims the rows sets `served_at` of their tenants.

    Returns:
        At most `slots` rows of `id`, `attempt` and `running`, the number of adaptations that the tenant has running on
        any worker.
    """
    return session.execute(_NEXT, {"subspace_ids": list(subspace_ids), "slots": slots}).all()


def clear_idle_tenants(session: Session) -> None:
    """Clear `waiting_since` of tenants with no adaptation queued or running, so that claims skip them."""
    idle = (Tenant.waiting_since.is_not(None), ~_has("queued"), ~_has("running"))
    # An insert into the queue holds the foreign key's lock on the tenant until it commits. So a tenant that can be
    # locked FOR UPDATE has no insert in progress, and the next statement sees every committed one.
    query = select(Tenant.id).where(*idle).limit(_IDLE_BATCH).with_for_update(skip_locked=True)
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
