"""`/v1/adaptations`."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from app.adaptations import repository, service
from app.adaptations.creation import CREATED, CreationDep, create_from_form, created
from app.adaptations.dependencies import OpenStreamsDep, QueueingDep
from app.adaptations.event_stream import follow
from app.adaptations.schemas import AdaptationInput, AdaptationView, EventView
from app.adaptations.upload import Form, FormRoute, documented_form, read_form
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep, CallerDep
from app.db.dependencies import TransactionDep
from app.db.models import FINISHED, Adaptation, State
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.http.dependencies import StoppingDep
from app.http.fields import Id
from app.http.pagination import After, Limit, Page, page_of

router = APIRouter(
    prefix="/v1/adaptations",
    tags=["adaptations"],
    responses=documented([PermissionDeniedError]),
    route_class=AdmittingRoute,
)

SeqField = Annotated[int, Field(ge=0, le=2**31 - 1)]
_EVENT_STREAM = "text/event-stream"
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "description": "its `type`"},
        "id": {"type": "string", "description": "its `seq`"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/EventView"},
        },
    },
    "required": ["event", "id", "data"],
}
_STREAMED: dict[int | str, dict[str, Any]] = {
    # `itemSchema` comes from OpenAPI 3.2; FastAPI uses it too.
    200: {"content": {_EVENT_STREAM: {"itemSchema": _EVENT_SCHEMA}}},
    204: {"description": "a stream was requested and no event will follow the last one"},
}


async def create_adaptation_from_form(
    form: Annotated[Form, Depends(read_form)], creation: CreationDep, response: Response
) -> AdaptationView:
    """Create an adaptation from a form; `create_adaptation` documents both."""
    return created(await creation.run(partial(create_from_form, form=form)), response)


# Registered before the route for JSON, which matches any body.
router.add_api_route(
    "",
    create_adaptation_from_form,
    methods=["POST"],
    status_code=202,
    include_in_schema=False,
    route_class_override=FormRoute,
)


@router.post(
    "",
    status_code=202,
    summary="Adapt to a task",
    responses=documented([NotFoundError, ConflictError]) | CREATED,
    openapi_extra=documented_form(AdaptationInput),
)
async def create_adaptation(body: AdaptationInput, creation: CreationDep, response: Response) -> AdaptationView:
    """Queue the tuning of a task on a few examples, sent as JSON or, in a form, as a file.

    The response contains the id of the task, which answers predictions as soon as the adaptation has succeeded.
    """
    return created(await creation.run(partial(service.create, body=body)), response)


@router.get("", summary="List adaptations", responses=documented([NotFoundError]))
def list_adaptations(
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    state: State | None = None,
    task_id: Annotated[Id | None, Query(description="only adaptations of this task")] = None,
    after: After = None,
    limit: Limit = 20,
) -> Page[AdaptationView]:
    """List adaptations, newest first."""
    query = repository.of_tenant(tenant, state, task_id)
    with transaction() as session:
        rows, following = page_of(
            session,
            query,
            (Adaptation.created_at, Adaptation.id),
            after=after,
            limit=limit,
            among=repository.of_tenant(tenant),
        )
    return Page(data=[AdaptationView.of(row) for row in rows], has_more=following is not None, next=following)


@router.get("/{adaptation_id}", summary="Look at an adaptation", responses=documented([NotFoundError]))
def get_adaptation(adaptation_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> AdaptationView:
    """Return state and progress, and once finished the metrics or the error."""
    with transaction() as session:
        return AdaptationView.of(service.get(session, tenant, adaptation_id))


@router.get(
    "/{adaptation_id}/events",
    summary="What happened to an adaptation",
    response_model=Page[EventView],
    responses=documented([NotFoundError]) | _STREAMED,
)
def list_events(
    adaptation_id: Id,
    transaction: TransactionDep,
    open_streams: OpenStreamsDep,
    stopping: StoppingDep,
    tenant: AdaptingTenantDep,
    caller: CallerDep,
    after: Annotated[SeqField, Query(description="the `seq` of the last event received")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    accept: Annotated[str, Header(description="`text/event-stream` for a stream that ends with the adaptation")] = "",
    last_event_id: Annotated[
        SeqField | SkipJsonSchema[None], Header(description="in a stream, the same as `after`")
    ] = None,
) -> Response | Page[EventView]:
    """List events, oldest first: one page, or a stream of server-sent events until the adaptation ends.

    Resuming a stream after the last event returns 204, which tells browsers to stop reconnecting. A stream ends when
    its API key expires or is revoked.
    """
    wants_stream = _EVENT_STREAM in accept.lower()
    if wants_stream:
        after, limit = after if last_event_id is None else last_event_id, 1
    with transaction() as session:
        adaptation = service.get(session, tenant, adaptation_id)
        rows, has_more = repository.events(session, tenant, adaptation_id, after=after, limit=limit)
    if not wants_stream:
        next_seq = str(rows[-1].seq) if has_more else None
        return Page(data=[EventView.of(row) for row in rows], has_more=has_more, next=next_seq)
    if adaptation.state in FINISHED and not rows:
        return Response(status_code=204)
    open_streams.check_room(tenant)
    return StreamingResponse(
        open_streams.counted(tenant, follow(transaction, caller, adaptation_id, after, open_streams, stopping)),
        media_type=_EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post(
    "/{adaptation_id}/pause",
    summary="Pause an adaptation",
    responses=documented([NotFoundError, ConflictError]),
)
def pause_adaptation(adaptation_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> AdaptationView:
    """Pause a queued adaptation at once, a running one within seconds; `pause_requested` is true until then."""
    with transaction() as session:
        return AdaptationView.of(service.pause(session, tenant, adaptation_id))


@router.post(
    "/{adaptation_id}/resume",
    summary="Resume an adaptation",
    responses=documented([NotFoundError, ConflictError]),
)
def resume_adaptation(adaptation_id: Id, queueing: QueueingDep, tenant: AdaptingTenantDep) -> AdaptationView:
    """Queue a paused adaptation again: it continues from the step that it had reached."""
    with queueing() as session:
        return AdaptationView.of(service.resume(session, tenant, adaptation_id))


@router.post(
    "/{adaptation_id}/cancel",
    summary="Cancel an adaptation",
    responses=documented([NotFoundError, ConflictError]),
)
def cancel_adaptation(adaptation_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> AdaptationView:
    """Cancel a queued adaptation at once, a running one within seconds; `cancel_requested` is true until then."""
    with transaction() as session:
        return AdaptationView.of(service.cancel(session, tenant, adaptation_id))
