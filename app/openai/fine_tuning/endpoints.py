"""`/openai/v1/fine_tuning/jobs`."""

import re
from functools import partial

from fastapi import APIRouter

from app.adaptations.creation import CreationDep
from app.adaptations.dependencies import QueueingDep
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep
from app.db.dependencies import TransactionDep
from app.errors import NotFoundError
from app.http.fields import Id
from app.openai.dialect import PREFIX
from app.openai.fine_tuning import repository, service
from app.openai.fine_tuning.schemas import CheckpointView, JobEventView, JobInput, JobView
from app.openai.pages import AfterId, CursorPage, PageLimit, cursor_page

router = APIRouter(prefix=f"{PREFIX}/fine_tuning/jobs", tags=["openai"], route_class=AdmittingRoute)

_EVENT_ID = re.compile(r"ftevent-[0-9a-z]{24}-([0-9]{1,9})")


@router.post("", summary="Fine-tune a model")
async def create_job(body: JobInput, creation: CreationDep) -> JobView:
    """Queue the tuning of a task on the examples of a file."""
    return JobView.of(await creation.run(partial(service.create, body=body)))


@router.get("", summary="List fine-tuning jobs")
def list_jobs(
    transaction: TransactionDep, tenant: AdaptingTenantDep, after: AfterId = None, limit: PageLimit = 20
) -> CursorPage[JobView]:
    """List fine-tuning jobs, newest first."""
    with transaction() as session:
        last = None if after is None else service.get(session, tenant, after, "after").id
        return cursor_page(session, repository.of_tenant(tenant), JobView.of, after=last, limit=limit)


@router.get("/{fine_tuning_job_id}", summary="Look at a fine-tuning job")
def get_job(fine_tuning_job_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> JobView:
    """Return the status of a job, and once it has succeeded its model and its result files."""
    with transaction() as session:
        return JobView.of(service.get(session, tenant, fine_tuning_job_id))


@router.post("/{fine_tuning_job_id}/cancel", summary="Cancel a fine-tuning job")
def cancel_job(fine_tuning_job_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> JobView:
    """Cancel a job; a running one stops at its next step."""
    with transaction() as session:
        return JobView.of(service.cancel(session, tenant, fine_tuning_job_id))


@router.post("/{fine_tuning_job_id}/pause", summary="Pause a fine-tuning job")
def pause_job(fine_tuning_job_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> JobView:
    """Pause a job; a running one is `paused` after its next step."""
    with transaction() as session:
        return JobView.of(service.pause(session, tenant, fine_tuning_job_id))


@router.post("/{fine_tuning_job_id}/resume", summary="Resume a fine-tuning job")
def resume_job(fine_tuning_job_id: Id, queueing: QueueingDep, tenant: AdaptingTenantDep) -> JobView:
    """Queue a paused job again: it continues from the step that it had reached."""
    with queueing() as session:
        return JobView.of(service.resume(session, tenant, fine_tuning_job_id))


@router.get("/{fine_tuning_job_id}/events", summary="What happened to a fine-tuning job")
def list_events(
    fine_tuning_job_id: Id,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    after: AfterId = None,
    limit: PageLimit = 20,
) -> CursorPage[JobEventView]:
    """List the events of a job, newest first."""
    before = None
    if after is not None:
        match = _EVENT_ID.fullmatch(after)
        if match is None:
            raise NotFoundError("no event has the id given in 'after'", code="unknown_id", param="after")
        before = int(match[1])
    with transaction() as session:
        job = service.get(session, tenant, fine_tuning_job_id)
        events = repository.events_before(session, tenant, job.id, before=before, limit=limit + 1)
    return CursorPage.of([JobEventView.of(job, event) for event in events[:limit]], has_more=len(events) > limit)


@router.get("/{fine_tuning_job_id}/checkpoints", summary="List the checkpoints of a fine-tuning job")
def list_checkpoints(
    fine_tuning_job_id: Id,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    after: AfterId = None,
    limit: PageLimit = 10,  # noqa: ARG001 - there is at most one checkpoint
) -> CursorPage[CheckpointView]:
    """Return the model of a job that has succeeded; intermediate states are not kept."""
    with transaction() as session:
        job = service.get(session, tenant, fine_tuning_job_id)
    checkpoints = [CheckpointView.of(job)] if job.state == "succeeded" and after is None else []
    return CursorPage.of(checkpoints, has_more=False)
