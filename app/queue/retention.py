"""Retention: deletes what has aged out, a limited number of rows at a time, and never waits for a lock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from app.db.models import Adaptation
from app.db.unused_datasets import delete_unused_datasets

BATCH = 500
"""Most adaptations or kept texts that one call looks at."""
# The key of the advisory lock that lets only one worker at a time delete.
_LOCK = 71_107_868

_NEXT_FINISHED = text("""
SELECT id, task_id, finished_at FROM adaptations
WHERE finished_at IS NOT NULL AND (finished_at, id) > (:finished_at, :id) AND finished_at < now() - :age
ORDER BY finished_at, id LIMIT :batch
""")
# The last event stays, which says how the adaptation ended.
_TRIM_EVENTS = text("""
DELETE FROM adaptation_events AS event USING (
    SELECT adaptation_id, max(seq) AS last FROM adaptation_events WHERE adaptation_id = ANY(:ids) GROUP BY adaptation_id
) AS kept WHERE event.adaptation_id = kept.adaptation_id AND event.seq < kept.last
""")
_SUPERSEDED = text("""
SELECT adaptation_id FROM (
    SELECT adaptation_id, task_id, version, row_number() OVER (PARTITION BY task_id ORDER BY version DESC) AS place
    FROM task_versions WHERE task_id = ANY(:task_ids)
) AS ranked JOIN tasks ON tasks.id = ranked.task_id
WHERE place > :keep AND version IS DISTINCT FROM promoted_version AND version IS DISTINCT FROM canary_version
""")
_DELETE_KEPT_TEXTS = text("""
DELETE FROM kept_texts WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM kept_texts WHERE kept_at < now() - :age LIMIT :batch FOR UPDATE SKIP LOCKED
))
""")
_UNSUCCESSFUL = text("""
SELECT id FROM adaptations WHERE state IN ('failed', 'cancelled') AND finished_at < now() - :age
ORDER BY finished_at LIMIT :batch
""")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a pass over the finished adaptations has come, in the order in which they finished."""

    finished_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    id: str = ""


def take_turn(session: Session) -> bool:
    """Return whether this transaction may delete; no other one may until it ends."""
    return bool(session.execute(select(func.pg_try_advisory_xact_lock(_LOCK))).scalar_one())


def trim_events(session: Session, age: timedelta, after: Position) -> Position:
    """Delete all events but the last of adaptations that finished longer ago than `age`, and return how far it came."""
    ids, _, position = _next_finished(session, age, after)
    session.execute(_TRIM_EVENTS, {"ids": ids})
    return position


def delete_superseded(session: Session, keep: int, after: Position) -> Position:
    """Delete all versions but the newest `keep` of tasks that got one, with their adaptations and unused datasets.

    The promoted version and the canary of a task stay.
    """
    _, task_ids, position = _next_finished(session, timedelta(), after)
    superseded = session.scalars(_SUPERSEDED, {"task_ids": task_ids, "keep": keep}).all()
    _delete_adaptations(session, superseded)
    return position


def delete_unsuccessful(session: Session, age: timedelta) -> None:
    """Delete failed and cancelled adaptations that ended longer ago than `age`, with their unused datasets."""
    _delete_adaptations(session, session.scalars(_UNSUCCESSFUL, {"age": age, "batch": BATCH}).all())


def delete_kept_texts(session: Session, age: timedelta) -> None:
    """Delete kept texts that are older than `age`."""
    session.execute(_DELETE_KEPT_TEXTS, {"age": age, "batch": BATCH})


def _next_finished(session: Session, age: timedelta, after: Position) -> tuple[list[str], list[str], Position]:
    parameters = {"finished_at": after.finished_at, "id": after.id, "age": age, "batch": BATCH}
    rows = session.execute(_NEXT_FINISHED, parameters).all()
    last = Position(rows[-1].finished_at, rows[-1].id) if rows else after
    return [row.id for row in rows], [row.task_id for row in rows], last


def _delete_adaptations(session: Session, ids: Sequence[str]) -> None:
    """Delete adaptations except locked ones: waiting could deadlock with a request that deletes their task."""
    if not ids:
        return
    locked = select(Adaptation.id).where(Adaptation.id.in_(ids)).with_for_update(skip_locked=True)
    deletion = delete(Adaptation).where(Adaptation.id.in_(session.scalars(locked).all()))
    dataset_ids = session.scalars(deletion.returning(Adaptation.dataset_id)).all()
    delete_unused_datasets(session, set(dataset_ids))
