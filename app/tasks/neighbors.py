"""Find similar tasks: exact search for a tenant with few vectors, an HNSW index for a tenant with many."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Float, Integer, String, TextualSelect, column, literal, select, text
from sqlalchemy.orm import Session

from app.db.models import INDEXED, INDEXED_DIM, SPREAD_DIMS, Task, TaskVersion

EXACT_UP_TO = 10_000
"""Most vectors of a tenant that are compared one by one, which up to here is about as fast as the index."""
_CANDIDATES_PER_NEIGHBOR = 10
"""Versions ranked for each requested neighbor; too few only if many older versions are as similar."""


# Nearest neighbors from two sets. `moved`: vectors that tuning moved away from their initial vector. `unmoved`: vectors
# equal to an initial vector. Any number of tasks share an initial vector and are equally near, so `starts` lists the
# distinct ones by a loose index scan, and a few tasks are taken from each.
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
    """Return the query for task id, version and cosine distance, given the query for `moved`."""
    others = "tenant_id = :tenant_id AND subspace_id = :subspace_id AND task_id <> :task_id"
    newest = (
        "NOT EXISTS (SELECT FROM task_versions newer WHERE newer.task_id = version_.task_id "
        "AND newer.version > version_.version AND newer.subspace_id = :subspace_id)"
    )
    spread = f"spread_vector(vector, task_id)::halfvec({INDEXED_DIM + SPREAD_DIMS})"
    parts = {"others": others, "newest": newest, "indexed": INDEXED, "spread": spread}
    query = _NEAREST.format(moved=moved.format(**parts), **parts)
    return text(query).columns(column("task_id", String), column("version", Integer), column("distance", Float))


# The inner query sorts at most `candidates` rows. In that order the outer query checks for newer versions until it has
# enough rows, instead of checking every task.
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

# The index returns approximately sorted rows.
_BY_INDEX = _nearest("""
SELECT task_id, version, vector <=> CAST(:vector AS vector) AS distance FROM task_versions version_
WHERE {others} AND {indexed} AND {newest}
ORDER BY {spread} <=> CAST(:spread AS halfvec)
LIMIT 2 * :limit
""")
# For this transaction: scan the index iteratively until enough rows pass the filters; search wider than pgvector's
# default; make the planner use the index; disable the JIT compiler, which the resulting cost estimate would trigger.
_USE_INDEX = text("""
SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '200', true),
    set_config('enable_sort', 'off', true), set_config('jit', 'off', true)
""")
_RESET_PLANNER = text("SELECT set_config('enable_sort', 'on', true)")


def neighbors(session: Session, tenant_id: str, of: TaskVersion, limit: int) -> Sequence[tuple[Task, int, float]]:
    """Return the tenant's other tasks in the same subspace with the most similar newest vectors.

    Each task comes with its version and cosine similarity. The zero vector, which stands for the average task, has no
    direction: a task with this vector has no neighbors and is not a neighbor. Above `EXACT_UP_TO` versions an index
    finds the candidates and may miss some (docs/decisions/0012).
    """
    if not np.any(of.vector):
        return []
    nearest: Sequence[tuple[Task, int, float]] = []
    # The index holds vectors of one length only.
    if len(of.vector) == INDEXED_DIM and _has_more_moved(EXACT_UP_TO, session, tenant_id, of):
        session.execute(_USE_INDEX)
        nearest = _tasks(session, tenant_id, of, limit, _BY_INDEX)
        session.execute(_RESET_PLANNER)
    if len(nearest) < limit:  # an index scan ends after a number of rows, most of which may be other tenants'
        nearest = _tasks(session, tenant_id, of, limit, _EXACT, _CANDIDATES_PER_NEIGHBOR * limit)
    if len(nearest) < limit and _has_more_moved(_CANDIDATES_PER_NEIGHBOR * limit, session, tenant_id, of):
        nearest = _tasks(session, tenant_id, of, limit, _EXACT)
    return nearest


def _has_more_moved(count: int, session: Session, tenant_id: str, of: TaskVersion) -> bool:
    """Return whether the tenant has more than `count` vectors in this subspace that moved from an initial vector."""
    moved = select(literal(1)).where(
        TaskVersion.tenant_id == tenant_id, TaskVersion.subspace_id == of.subspace_id, TaskVersion.start.is_(None)
    )
    return session.scalar(moved.offset(count).limit(1)) is not None


def _tasks(
    session: Session, tenant_id: str, of: TaskVersion, limit: int, query: TextualSelect, candidates: int | None = None
) -> Sequence[tuple[Task, int, float]]:
    near = query.subquery("near")
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
    return [(task, version, float(similarity)) for task, version, similarity in rows]
