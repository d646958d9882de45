"""`POST /v1/tasks/{id}/generate`."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.background import BackgroundTask

import ipt
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.errors import AppError, ConflictError, NotFoundError, PermissionDeniedError, documented, error_body
from app.generations.dependencies import GenerationsDep
from app.generations.schemas import (
    DeltaView,
    DoneView,
    FinishedView,
    GenerateInput,
    GenerateView,
    GenerationView,
    UsageView,
)
from app.generations.service import Generation
from app.http.dependencies import SettingsDep, StoppingDep
from app.http.disconnects import unless_gone
from app.http.error_handlers import log_unforeseen
from app.http.fields import Id
from app.http.text_limits import check_input_count, check_text_length
from app.predictions.task_lookup import Question

router = APIRouter(tags=["generations"], route_class=AdmittingRoute)


def _inlined(view: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a view that is no response body, for which OpenAPI therefore has no named schema."""
    schema = view.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


_EVENT_STREAM = "text/event-stream"
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["delta", "finished", "done", "error"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [
                    *(_inlined(view) for view in (DeltaView, FinishedView, DoneView)),
                    {"$ref": "#/components/schemas/ErrorBody"},
                ]
            },
        },
    },
    "required": ["event", "data"],
}
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {_EVENT_STREAM: {"itemSchema": _EVENT_SCHEMA}}}}


@router.post(
    "/v1/tasks/{task_id}/generate",
    summary="Write texts with one task",
    response_model=GenerateView,
    responses=documented([PermissionDeniedError, NotFoundError, ConflictError]) | _STREAMED,
)
async def generate_with_task(
    task_id: Id,
    body: GenerateInput,
    settings: SettingsDep,
    generations: GenerationsDep,
    stopping: StoppingDep,
    tenant: PredictingTenantDep,
    request: Request,
) -> Response | GenerateView:
    """Generate a text for each input, on a backbone that generates text.

    With `stream` the response is a stream of server-sent events: `delta` for each piece of a text, `finished` when a
    text has ended, `done` when all texts have ended, or `error`. Disconnecting cancels the texts.
    """
    inputs = body.all_inputs
    for index, text in enumerate(inputs):
        check_text_length(settings, text, "input" if body.inputs is None else f"inputs[{index}]")
    check_input_count(settings, len(inputs), "inputs")
    question = Question(task_id, body.version, inputs[0], "task_id")
    generation = await generations.begin(tenant, question, inputs, body.parameters(), stopping)
    if body.stream:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        # If the caller has disconnected already, the stream is never iterated and so cannot cancel its texts.
        cancel = BackgroundTask(generation.cancel)
        return StreamingResponse(_stream(generation), media_type=_EVENT_STREAM, headers=headers, background=cancel)
    return await unless_gone(request, _complete(generation, len(inputs)))


async def _complete(generation: Generation, count: int) -> GenerateView:
    """Return the response once all `count` texts have ended."""
    async with aclosing(generation.events) as events:
        pairs = [pair async for pair in events if pair is not None]
    finished = {index: event for index, event in pairs if isinstance(event, ipt.TextFinished)}
    texts = [finished[index] for index in range(count)]
    return GenerateView(
        task_id=generation.key[0],
        task_version=generation.key[1],
        generations=[GenerationView.of(text) for text in texts],
        usage=UsageView.of(texts),
    )


async def _stream(generation: Generation) -> AsyncIterator[bytes]:
    """Yield server-sent events; an error is an event too, because the status has already been sent."""
    finished: list[ipt.TextFinished] = []
    try:
        async with aclosing(generation.events) as events:
            async for pair in events:
                if pair is None:
                    yield KEEPALIVE_COMMENT
                    continue
                index, event = pair
                if isinstance(event, ipt.TextDelta):
                    yield _message("delta", DeltaView(index=index, text=event.text))
                else:
                    finished.append(event)
                    yield _message("finished", FinishedView.of(index, event))
    except AppError as error:
        if error.status == 500:
            log_unforeseen(error.__cause__ or error)
        body = error_body(error.message, type=error.type, code=error.code, param=error.param)
        yield format_sse_event(event="error", data_str=json.dumps(body))
        return
    task_id, version = generation.key
    yield _message("done", DoneView(task_id=task_id, task_version=version, usage=UsageView.of(finished)))


def _message(event: str, data: BaseModel) -> bytes:
    return format_sse_event(event=event, data_str=data.model_dump_json())
