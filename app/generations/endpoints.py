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
from app.api_keys.dependencies import PredictingTenantDep
from app.api_keys.routes import AdmittingRoute
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
from app.generations.service import Writing
from app.http.dependencies import SettingsDep, StoppingDep
from app.http.disconnects import unless_gone
from app.http.error_handlers import log_unforeseen
from app.http.fields import Id
from app.predictions.endpoints import check_count, check_length
from app.predictions.lookup import Question

router = APIRouter(tags=["generations"], route_class=AdmittingRoute)


def _inlined(view: type[BaseModel]) -> dict[str, Any]:
    """The schema of a view that no answer has as a whole, so that the document has no name for it."""
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
    """Continue inputs as the task was adapted to, on a backbone that writes text.

    With `stream` the answer is a stream of server-sent events: `delta` for each further piece of a text, `finished`
    when one has ended, `done` at the end, or `error`. A caller who goes away takes the texts along.
    """
    inputs = body.all_inputs
    for index, text in enumerate(inputs):
        check_length(settings, text, "input" if body.inputs is None else f"inputs[{index}]")
    check_count(settings, len(inputs), "inputs")
    question = Question(task_id, body.version, inputs[0], "task_id")
    writing = await generations.begin(tenant, question, inputs, body.parameters(), stopping)
    if body.stream:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        # Of a caller who is gone already, the stream is not even begun.
        gone = BackgroundTask(writing.cancel)
        return StreamingResponse(_stream(writing), media_type=_EVENT_STREAM, headers=headers, background=gone)
    return await unless_gone(request, _whole(writing, len(inputs)))


async def _whole(writing: Writing, number: int) -> GenerateView:
    """The answer when all texts have ended."""
    async with aclosing(writing.events) as events:
        pairs = [pair async for pair in events if pair is not None]
    finished = {index: event for index, event in pairs if isinstance(event, ipt.TextFinished)}
    texts = [finished[index] for index in range(number)]
    return GenerateView(
        task_id=writing.key[0],
        task_version=writing.key[1],
        generations=[GenerationView(text=text.text, finish_reason=text.reason) for text in texts],  # type: ignore[arg-type]
        usage=UsageView.of(texts),
    )


async def _stream(writing: Writing) -> AsyncIterator[bytes]:
    """Events as they come. An error comes as one: the answer's status is out already."""
    finished: list[ipt.TextFinished] = []
    try:
        async with aclosing(writing.events) as events:
            async for pair in events:
                if pair is None:
                    yield KEEPALIVE_COMMENT
                    continue
                index, event = pair
                if isinstance(event, ipt.TextDelta):
                    yield _message("delta", DeltaView(index=index, text=event.text))
                else:
                    finished.append(event)
                    yield _message("finished", FinishedView(index=index, finish_reason=event.reason))  # type: ignore[arg-type]
    except AppError as error:
        if error.status == 500:
            log_unforeseen(error.__cause__ or error)
        body = error_body(error.message, type=error.type, code=error.code, param=error.param)
        yield format_sse_event(event="error", data_str=json.dumps(body))
        return
    task_id, version = writing.key
    yield _message("done", DoneView(task_id=task_id, task_version=version, usage=UsageView.of(finished)))


def _message(event: str, data: BaseModel) -> bytes:
    return format_sse_event(event=event, data_str=data.model_dump_json())
