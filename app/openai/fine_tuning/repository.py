"""Queries on adaptations that were created as fine-tuning jobs, and on their events."""

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.models import Adaptation, AdaptationEvent


def of_tenant(tenant_id: str) -> Select[Adaptation]:
    """Select a tenant's fine-tuning jobs."""
    return select(Adaptation).where(Adaptation.tenant_id == tenant_id, Adaptation.fine_tuning.is_not(None))


def get(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation | None:
    """Return one job, None if the tenant has no such job."""
    return session.scalar(of_tenant(tenant_id).where(Adaptation.id == adaptation_id))


def events_before(
    session: Session, tenant_id: str, adaptation_id: str, *, before: int | None, limit: int
) -> Sequence[AdaptationEvent]:
    """Return the events of a tenant's adaptation with numbers below `before`, at most `limit`, newest first."""
    query = _events(tenant_id, adaptation_id)
    if before is not None:
        query = query.where(AdaptationEvent.seq < before)
    return session.scalars(query.order_by(AdaptationEvent.seq.desc()).limit(limit)).all()


def progress_events(session: Session, tenant_id: str, adaptation_id: str) -> Sequence[AdaptationEvent]:
    """Return the progress events of a tenant's adaptation, oldest first; a worker appends few of them."""
    query = _events(tenant_id, adaptation_id).where(AdaptationEvent.type == "progress")
    return session.scalars(query.order_by(AdaptationEvent.seq)).all()


def with_system(session: Session, tenant_id: str, task_id: str) -> bool:
    """Return whether system messages are part of the inputs of a task; false if no fine-tuning job tuned it."""
    jobs = of_tenant(tenant_id).where(Adaptation.task_id == task_id)
    first = session.scalar(jobs.order_by(Adaptation.task_version).limit(1))
    return first is not None and first.fine_tuning is not None and bool(first.fine_tuning["with_system"])


def _events(tenant_id: str, adaptation_id: str) -> Select[AdaptationEvent]:
    return (
        select(AdaptationEvent)
        .join(Adaptation, Adaptation.id == AdaptationEvent.adaptation_id)
        .where(Adaptation.id == adaptation_id, Adaptation.tenant_id == tenant_id)
    )
