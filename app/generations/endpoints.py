"""`POST /v1/tasks/{id}/generate`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel

import ipt
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
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
from app.generations.streaming import EVENT_STREAM, EventForm, streaming_response
from app.http.dependencies import SettingsDep, StoppingDep
from app.http.disconnects import unless_gone
from app.http.fields import Id
from app.http.text_limits import check_input_count, check_text_length
from app.predictions.task_cache import TaskKey
from app.predictions.task_lookup import Question

router = APIRouter(tags=["generations"], route_class=AdmittingRoute)


def _inlined(view: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a view that is no response body, for which OpenAPI therefore has no named schema."""
    schema = view.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


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
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {EVENT_STREAM: {"itemSchema": _EVENT_SCHEMA}}}}


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
        return streaming_response(generation, _NativeEvents(generation.key))
    texts = await unless_gone(request, generation.texts())
    return GenerateView(
        task_id=generation.key[0],
        task_version=generation.key[1],
        generations=[GenerationView.of(text) for text in texts],
        usage=UsageView.of(texts),
    )


@dataclass(frozen=True, slots=True)
class _NativeEvents(EventForm):
    """Named events whose data are the views of `schemas`."""

    key: TaskKey

    def delta(self, index: int, text: str) -> bytes:
        return _message("delta", DeltaView(index=index, text=text))

    def finished(self, index: int, text: ipt.TextFinished) -> bytes:
        return _message("finished", FinishedView.of(index, text))

    def failed(self, status: int, body: dict[str, Any]) -> bytes:  # noqa: ARG002 - the body says all
        return format_sse_event(event="error", data_str=json.dumps(body))

    def ended(self, texts: Sequence[ipt.TextFinished]) -> bytes:
        task_id, version = self.key
        return _message("done", DoneView(task_id=task_id, task_version=version, usage=UsageView.of(texts)))


def _message(event: str, data: BaseModel) -> bytes:
    return format_sse_event(event=event, data_str=data.model_dump_json())
