"""`/v1/adaptations`."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from app.adaptations import repository, service
from app.adaptations.dependencies import OpenStreamsDep
from app.adaptations.event_stream import follow
from app.adaptations.schemas import AdaptationInput, AdaptationView, EventView
from app.adaptations.upload import Form, FormRoute, documented_form, in_file, naming_lines, read_body, read_form
from app.api_keys.dependencies import AdaptingTenantDep, CallerDep
from app.api_keys.routes import AdmittingRoute
from app.db.dependencies import OpenTransaction, TransactionDep
from app.db.models import FINISHED, Adaptation, State
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.http.dependencies import SettingsDep, StoppingDep
from app.http.fields import Id
from app.http.pagination import After, Limit, Page, page_of
from app.predictions.dependencies import ModelDep
from app.predictions.model import Model
from app.queue.wake import wake
from app.settings import Settings

router = APIRouter(
    prefix="/v1/adaptations",
    tags=["adaptations"],
    responses=documented([PermissionDeniedError]),
    route_class=AdmittingRoute,
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="the same key and body give the same adaptation, however often they are sent, until its task is "
        "deleted",
    ),
]
_CREATED: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "where to follow it", "schema": {"type": "string"}}}}
}
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
    # `itemSchema` is OpenAPI 3.2's word for it, which FastAPI uses as well.
    200: {"content": {_EVENT_STREAM: {"itemSchema": _EVENT_SCHEMA}}},
    204: {"description": "a stream was asked for, and nothing will ever follow the last event"},
}


def create_adaptation_from_form(
    form: Annotated[Form, Depends(read_form)],
    settings: SettingsDep,
    model: ModelDep,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    background: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> AdaptationView:
    """The same as `create_adaptation`, which documents both."""
    body, lines = read_body(form, settings.max_examples)
    with naming_lines(lines):
        return _create(
            body,
            settings,
            model,
            transaction,
            tenant,
            background,
            response,
            idempotency_key,
            partial(in_file, lines=lines),
        )


# Before the route for JSON, which would take every body.
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
    responses=documented([NotFoundError, ConflictError]) | _CREATED,
    openapi_extra=documented_form(),
)
def create_adaptation(
    body: AdaptationInput,
    settings: SettingsDep,
    model: ModelDep,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    background: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> AdaptationView:
    """Queue the tuning of a task on a few examples, sent in JSON or, in a form, as a JSONL or CSV file.

    The task's id is in the answer and can be asked for predictions as soon as the adaptation has succeeded.
    """
    return _create(body, settings, model, transaction, tenant, background, response, idempotency_key)


def _create(
    body: AdaptationInput,
    settings: Settings,
    model: Model,
    transaction: OpenTransaction,
    tenant: str,
    background: BackgroundTasks,
    response: Response,
    idempotency_key: str | None,
    place_of: Callable[[str], str] = str,
) -> AdaptationView:
    with transaction() as session:
        adaptation, _ = service.create(
            session, settings, tenant, body, idempotency_key, model.family, model.loaded_subspace_id, place_of
        )
        view = AdaptationView.of(adaptation)
    response.headers["Location"] = f"/v1/adaptations/{view.id}"
    background.add_task(wake, settings)
    return view


@router.get("", summary="List adaptations", responses=documented([NotFoundError]))
def list_adaptations(
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    state: State | None = None,
    task_id: Annotated[Id | None, Query(description="the runs of one task")] = None,
    after: After = None,
    limit: Limit = 20,
) -> Page[AdaptationView]:
    """Adaptations, newest first."""
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
    """State, progress, and at the end metrics or the error."""
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
    after: Annotated[SeqField, Query(description="the `seq` of the last event you have")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    accept: Annotated[str, Header(description="`text/event-stream` for a stream that ends with the adaptation")] = "",
    last_event_id: Annotated[
        SeqField | SkipJsonSchema[None], Header(description="in a stream, the same as `after`")
    ] = None,
) -> Response | Page[EventView]:
    """Events, oldest first: a page of them, or a stream of server-sent events that goes on while new ones come.

    A stream that is taken up again when all is over is answered with 204, which tells browsers to stop asking. One
    whose API key expires or is revoked ends at once.
    """
    streamed = _EVENT_STREAM in accept.lower()
    if streamed:
        after, limit = after if last_event_id is None else last_event_id, 1
    with transaction() as session:
        adaptation = service.get(session, tenant, adaptation_id)
        rows, has_more = repository.events(session, tenant, adaptation_id, after=after, limit=limit)
    if not streamed:
        following = str(rows[-1].seq) if has_more else None
        return Page(data=[EventView.of(row) for row in rows], has_more=has_more, next=following)
    if adaptation.state in FINISHED and not rows:
        return Response(status_code=204)
    open_streams.check_room(tenant)
    return StreamingResponse(
        open_streams.counted(tenant, follow(transaction, caller, adaptation_id, after, stopping)),
        media_type=_EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post(
    "/{adaptation_id}/cancel",
    summary="Cancel an adaptation",
    responses=documented([NotFoundError, ConflictError]),
)
def cancel_adaptation(adaptation_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> AdaptationView:
    """A queued adaptation is cancelled at once; a running one within seconds, `cancel_requested` until then."""
    with transaction() as session:
        return AdaptationView.of(service.cancel(session, tenant, adaptation_id))
