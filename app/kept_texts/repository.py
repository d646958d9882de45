"""Queries on kept texts."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.db.models import KeptTextRow, Tenant

MAX_TEXTS = 10_000
MAX_BYTES = 8 * 1024 * 1024
"""Most kept texts of a task, and their bytes; the oldest are deleted first."""

# The lock waits for a tenant that is switched off meanwhile, and then sees the switch; tenants first, as their deletion
# does. The order is that of the key, so that two processes that add the same rows cannot deadlock.
_ADD = text("""
INSERT INTO kept_texts (task_id, digest, text)
SELECT tasks.id, sha256(convert_to(added.text, 'UTF8')), added.text
FROM unnest(CAST(:task_ids AS text[]), CAST(:texts AS text[])) AS added (task_id, text)
JOIN tasks ON tasks.id = added.task_id
JOIN tenants ON tenants.id = tasks.tenant_id AND tenants.keep_texts
ORDER BY 1, 2
FOR KEY SHARE OF tenants, tasks
ON CONFLICT DO NOTHING
RETURNING task_id
""")
_DELETE_BEYOND = text("""
DELETE FROM kept_texts WHERE ctid = ANY(ARRAY(
    SELECT kept.ctid FROM kept_texts AS kept JOIN (
        SELECT task_id, digest, row_number() OVER newer AS place, sum(octet_length(text)) OVER newer AS bytes
        FROM kept_texts WHERE task_id = ANY(:task_ids)
        WINDOW newer AS (PARTITION BY task_id ORDER BY kept_at DESC, digest ROWS UNBOUNDED PRECEDING)
    ) AS ranked USING (task_id, digest)
    WHERE place > :most_texts OR bytes > :most_bytes
    FOR UPDATE OF kept SKIP LOCKED
))
""")


class KeptText(NamedTuple):
    """A text that a task was asked."""

    task_id: str
    text: str


def keeping_tenants(session: Session) -> frozenset[str]:
    """Return the tenants that keep their texts."""
    return frozenset(session.scalars(select(Tenant.id).where(Tenant.keep_texts)))


def add(session: Session, texts: Collection[KeptText]) -> None:
    """Add texts of tenants that keep theirs, each once for a task, and delete the oldest beyond the task's limits."""
    if not texts:
        return
    task_ids, contents = map(list, zip(*texts, strict=True))
    grown = set(session.scalars(_ADD, {"task_ids": task_ids, "texts": contents}))
    if grown:
        limits = {"most_texts": MAX_TEXTS, "most_bytes": MAX_BYTES}
        session.execute(_DELETE_BEYOND, {"task_ids": list(grown), **limits})


def of_task(session: Session, task_id: str) -> list[str]:
    """Return the texts of a task, newest first."""
    query = select(KeptTextRow.text).where(KeptTextRow.task_id == task_id)
    return list(session.scalars(query.order_by(KeptTextRow.kept_at.desc(), KeptTextRow.digest)))


def is_switched_on(session: Session, tenant_id: str) -> bool:
    """Return whether a tenant keeps its texts."""
    return bool(session.scalar(select(Tenant.keep_texts).where(Tenant.id == tenant_id)))
