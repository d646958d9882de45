"""`/openai/v1/chat/completions` and `/openai/v1/completions`."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.generations.service import Generation
from app.generations.streaming import EVENT_STREAM, NOT_BUFFERED, streaming_response
from app.http.disconnects import unless_gone
from app.openai.completions.answering import Answering, Begun
from app.openai.completions.dependencies import AnsweringDep
from app.openai.completions.schemas import ChatInput, CompletionInput, CompletionsInput
from app.openai.completions.views import ChatView, TextView
from app.openai.dialect import PREFIX

router = APIRouter(prefix=PREFIX, tags=["openai"], route_class=AdmittingRoute)

IGNORED_HEADER = "x-ignored-parameters"
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "a chunk as JSON, or `[DONE]`"}},
    "required": ["data"],
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {EVENT_STREAM: {"itemSchema": _EVENT_SCHEMA}},
        "headers": {
            IGNORED_HEADER: {"description": "the fields without any effect", "schema": {"type": "string"}},
        },
    }
}


@router.post("/chat/completions", summary="Answer a conversation", response_model=ChatView, responses=_RESPONSES)
async def create_chat_completion(
    body: ChatInput, answering: AnsweringDep, tenant: PredictingTenantDep, request: Request, response: Response
) -> Response | BaseModel:
    """Answer with a fine-tuned model: with a label if its task is a classification, otherwise with a text."""
    return await _respond(body, answering, tenant, request, response)


@router.post("/completions", summary="Complete prompts", response_model=TextView, responses=_RESPONSES)
async def create_completion(
    body: CompletionInput, answering: AnsweringDep, tenant: PredictingTenantDep, request: Request, response: Response
) -> Response | BaseModel:
    """Answer prompts of the legacy format; a separator at the end of a prompt is left out, as in tuning."""
    return await _respond(body, answering, tenant, request, response)


async def _respond(
    body: CompletionsInput, answering: Answering, tenant_id: str, request: Request, response: Response
) -> Response | BaseModel:
    async def work() -> Begun | BaseModel:
        begun = await answering.begin(tenant_id, body)
        return begun if body.stream else await begun.whole()

    result = await unless_gone(request, work())
    if body.ignored_fields:
        response.headers[IGNORED_HEADER] = ",".join(body.ignored_fields)
    if not isinstance(result, Begun):
        return result
    headers = dict(response.headers) | NOT_BUFFERED
    if isinstance(result.result, Generation):
        return streaming_response(result.result, result.answers, headers)
    return Response(result.answers.stream_labels(result.result), media_type=EVENT_STREAM, headers=headers)
