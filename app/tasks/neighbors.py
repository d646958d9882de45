"""Similar tasks: each vector compared where a tenant has few, by an index where there are many."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Float, Integer, String, TextualSelect, column, literal, select, text
from sqlalchemy.orm import Session

from app.db.models import INDEXED, INDEXED_DIM, SPREAD_DIMS, Task, TaskVersion

EXACT_UP_TO = 10_000
"""Fewer vectors of a tenant are compared each: exactly, and about as fast as by the index."""
_CANDIDATES = 10
"""Versions that are put in order for each task that is wanted: enough, but where older versions are as similar."""


# Those that moved, as `moved` finds them; and of those that stand at a start, of which any number may be equally near,
# some of each: one look for each start, however many tasks stand there.
_NEAREST = """
WITH RECURSIVE starts AS (
    SELECT min(start) AS start FROM task_versions
    WHERE tenant_id = :tenant_id AND subspace_id = :subspace_id AND start IS NOT NULL
    UNION ALL
    SELECT (
        SELECT min(start) FROM task_versions
        WHERE tenant_id = :tenant_id AND subspace_id = :subspace_id AND start > starts.start
    ) FROM starts WHERE start IS NOT NULL
), moved AS ({moved}), unmoved AS (
    SELECT at_start.* FROM starts CROSS JOIN LATERAL (
        SELECT task_id, version, vector <=> CAST(:vector AS vector) AS distance FROM task_versions version_
        WHERE {others} AND version_.start = starts.start AND {newest}
        ORDER BY task_id
        LIMIT :limit
    ) at_start
)
SELECT task_id, version, distance FROM (SELECT * FROM moved UNION ALL SELECT * FROM unmoved) nearest
WHERE distance <= 2  -- the distance to a vector of zeros is NaN, which is above any number
ORDER BY distance, task_id
LIMIT :limit
"""


def _nearest(moved: str) -> TextualSelect:
    """Task id, version and cosine distance of the nearest, those that moved found by this query."""
    others = "tenant_id = :tenant_id AND subspace_id = :subspace_id AND task_id <> :task_id"
    newest = (
        "NOT EXISTS (SELECT FROM task_versions newer WHERE newer.task_id = version_.task_id "
        "AND newer.version > version_.version AND newer.subspace_id = :subspace_id)"
    )
    spread = f"spread_vector(vector, task_id)::halfvec({INDEXED_DIM + SPREAD_DIMS})"
    parts = {"others": others, "newest": newest, "indexed": INDEXED, "spread": spread}
    query = _NEAREST.format(moved=moved.format(**parts), **parts)
    return text(query).columns(column("task_id", String), column("version", Integer), column("distance", Float))


# Ordered inside, so that newer versions are looked for until there are enough, and not of every task; and no more than
# `candidates` are put in order.
_EXACT = _nearest("""
SELECT task_id, version, distance FROM (
    SELECT task_id, version, vector <=> CAST(:vector AS vector) AS distance FROM task_versions
    WHERE {others} AND start IS NULL
    ORDER BY distance, task_id
    LIMIT :candidates
) version_
WHERE {newest}
ORDER BY distance, task_id
LIMIT :limit
""")

# In about the right order.
_BY_INDEX = _nearest("""
SELECT task_id, version, vector <=> CAST(:vector AS vector) AS distance FROM task_versions version_
WHERE {others} AND {indexed} AND {newest}
ORDER BY {spread} <=> CAST(:spread AS halfvec)
LIMIT 2 * :limit
""")
# For this transaction: the index goes on until it has found enough that the query wants, rather than filter what it
# found once; it looks around further than by pgvector's default; and it is used whatever the planner expects, whose
# estimates are then so high that it would compile the query.
_SEARCH = text("""
SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '200', true),
    set_config('enable_sort', 'off', true), set_config('jit', 'off', true)
""")
_SEARCHED = text("SELECT set_config('enable_sort', 'on', true)")


def neighbors(session: Session, tenant_id: str, of: TaskVersion, limit: int) -> Sequence[tuple[Task, int, float]]:
    """The tenant's other tasks in the same subspace whose newest vectors point most nearly the same way.

    Each with its version and cosine similarity. A vector of zeros, the average task's, points nowhere: a task that has
    it is not among them, and has none itself. Where more than `EXACT_UP_TO` versions are to be compared, an index
    finds the candidates, and may miss some (docs/decisions/0012).
    """
    if not np.any(of.vector):
        return []
    found: Sequence[tuple[Task, int, float]] = []
    # Of other lengths there are none in the index.
    if len(of.vector) == INDEXED_DIM and _more_than(EXACT_UP_TO, session, tenant_id, of):
        session.execute(_SEARCH)
        found = _tasks(session, tenant_id, of, limit, _BY_INDEX)
        session.execute(_SEARCHED)
    if len(found) < limit:  # the index gives up after a number of rows, most of which may be other tenants'
        found = _tasks(session, tenant_id, of, limit, _EXACT, _CANDIDATES * limit)
    if len(found) < limit and _more_than(_CANDIDATES * limit, session, tenant_id, of):
        found = _tasks(session, tenant_id, of, limit, _EXACT)
    return found


def _more_than(number: int, session: Session, tenant_id: str, of: TaskVersion) -> bool:
    """Whether the tenant has more vectors in this subspace that moved from where tuning starts."""
    moved = select(literal(1)).where(
        TaskVersion.tenant_id == tenant_id, TaskVersion.subspace_id == of.subspace_id, TaskVersion.start.is_(None)
    )
    return session.scalar(moved.offset(number).limit(1)) is not None


def _tasks(
    session: Session, tenant_id: str, of: TaskVersion, limit: int, nearest: TextualSelect, candidates: int | None = None
) -> Sequence[tuple[Task, int, float]]:
    near = nearest.subquery("near")
    values = [float(value) for value in of.vector]
    rows = session.execute(
        select(Task, near.c.version, 1 - near.c.distance)
        .join(near, near.c.task_id == Task.id)
        .where(Task.tenant_id == tenant_id)
        .order_by(near.c.distance, Task.id),
        {
            "tenant_id": tenant_id,
            "subspace_id": of.subspace_id,
            "task_id": of.task_id,
            "vector": str(values),
            "spread": str(values + [0.0] * SPREAD_DIMS),
            "limit": limit,
            "candidates": candidates,
        },
    )
    return [(task, number, float(similarity)) for task, number, similarity in rows]
