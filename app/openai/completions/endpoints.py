"""`/openai/v1/chat/completions` and `/openai/v1/completions`."""

import threading
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.errors import InvalidError
from app.generations.streaming import EVENT_STREAM, NOT_BUFFERED, streaming_response
from app.http.dependencies import SettingsDep, StoppingDep
from app.http.disconnects import unless_gone
from app.http.text_limits import check_input_count, check_text_length
from app.openai.completions.answers import ChatAnswers, CompletionAnswers
from app.openai.completions.dependencies import CompletionsDep
from app.openai.completions.schemas import ChatInput, CompletionInput
from app.openai.completions.service import Completions, task_of
from app.openai.completions.views import ChatView, TextView
from app.openai.dialect import PREFIX
from app.openai.messages import ENCODER_INPUT_CHARS, input_text
from app.openai.prompts import strip_prompt
from app.predictions.dependencies import ModelDep
from app.predictions.model import Model
from app.settings import Settings

router = APIRouter(prefix=PREFIX, tags=["openai"], route_class=AdmittingRoute)

_LEAST_TOP_P = 1e-6
"""Stands for 0, which takes the most likely token."""
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


@dataclass(frozen=True, slots=True)
class _Asking:
    """What both endpoints need to answer."""

    completions: Completions
    settings: Settings
    model: Model
    tenant: str
    stopping: threading.Event
    request: Request
    response: Response

    async def answer(
        self, answers: ChatAnswers | CompletionAnswers, task_id: str, texts: list[str], param: str, limit: int | None
    ) -> Response | BaseModel:
        """Answer each text as often as the request asks."""
        body = answers.body
        body.check_supported()
        for text in texts:
            check_text_length(self.settings, text, param)
        check_input_count(self.settings, len(texts) * body.choices, "n" if len(texts) == 1 else param)
        if body.ignored_fields:
            self.response.headers[IGNORED_HEADER] = ",".join(body.ignored_fields)
        headers = dict(self.response.headers) | NOT_BUFFERED
        if await self.completions.kind(self.tenant, task_id) == "classification":
            work = self.completions.classify(self.tenant, task_id, texts)
            answered = await unless_gone(self.request, work)
            if body.stream:
                return Response(answers.stream_labels(answered), media_type=EVENT_STREAM, headers=headers)
            return answers.of_labels(answered)
        answers.check_text()
        if body.choices > 1 and body.seed is not None and body.temperature:
            message = "one seed gives the same text for every choice: leave out the seed, or ask for one choice"
            raise InvalidError(message, code="unsupported_value", param="seed")
        inputs = [text for text in texts for _ in range(body.choices)]
        requested = {
            "max_new_tokens": limit,
            "temperature": body.temperature,
            "top_p": None if body.top_p is None else max(body.top_p, _LEAST_TOP_P),
            "seed": body.own_seed,
        }
        options: dict[str, Any] = {name: value for name, value in requested.items() if value is not None}
        options["stop"] = tuple(body.stops)
        generation = await self.completions.generate(self.tenant, task_id, inputs, options, self.stopping)
        if body.stream:
            return streaming_response(generation, answers, headers)
        return answers.of_texts(await unless_gone(self.request, generation.texts()))


async def _asking(
    completions: CompletionsDep,
    settings: SettingsDep,
    model: ModelDep,
    tenant: PredictingTenantDep,
    stopping: StoppingDep,
    request: Request,
    response: Response,
) -> _Asking:
    return _Asking(completions, settings, model, tenant, stopping, request, response)


AskingDep = Annotated[_Asking, Depends(_asking)]


@router.post("/chat/completions", summary="Answer a conversation", response_model=ChatView, responses=_RESPONSES)
async def create_chat_completion(body: ChatInput, asking: AskingDep) -> Response | BaseModel:
    """Answer with a fine-tuned model: with a label if its task is a classification, otherwise with a text."""
    task_id = task_of(body.model)
    with_system = await asking.completions.with_system(asking.tenant, task_id)
    encoder = asking.model.family == "encoder"
    max_chars = ENCODER_INPUT_CHARS if encoder else asking.settings.max_text_chars
    text = input_text(body.messages, with_system=with_system, max_chars=max_chars)
    return await asking.answer(ChatAnswers(body), task_id, [text], "messages", body.token_limit)


@router.post("/completions", summary="Complete prompts", response_model=TextView, responses=_RESPONSES)
async def create_completion(body: CompletionInput, asking: AskingDep) -> Response | BaseModel:
    """Answer prompts of the legacy format; a separator at the end of a prompt is left out, as in tuning."""
    prompts = [strip_prompt(prompt) for prompt in body.prompts]
    return await asking.answer(CompletionAnswers(body), task_of(body.model), prompts, "prompt", body.max_tokens)
