"""Answer requests of a batch as the endpoints that they name do."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from app.db.file_models import Batch, BatchRequestRow
from app.db.ids import new_id
from app.errors import AppError, BusyError, InvalidError, UnavailableError, error_body
from app.http.error_handlers import log_unforeseen
from app.openai.batches.repository import Answered
from app.openai.batches.service import response_line
from app.openai.completions.answering import Answering
from app.openai.completions.schemas import ChatInput, CompletionInput, CompletionsInput
from app.openai.dialect import openai_error
from app.openai.embeddings.schemas import EmbeddingInput
from app.openai.embeddings.service import Embeddings
from app.validation_messages import explain

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatInput,
    "/v1/completions": CompletionInput,
    "/v1/embeddings": EmbeddingInput,
}


class BatchAnswering:
    """Answers requests through the services of the endpoints."""

    def __init__(self, completions: Answering, embeddings: Embeddings) -> None:
        self._completions = completions
        self._embeddings = embeddings

    async def answer(self, batch: Batch, requests: Sequence[BatchRequestRow]) -> list[Answered]:
        """Answer requests together, without those that the service cannot answer now.

        An error that trying again would not change is a response too.
        """
        answers = await asyncio.gather(*(self._answer(batch, request) for request in requests))
        return [answer for answer in answers if answer is not None]

    async def _answer(self, batch: Batch, request: BatchRequestRow) -> Answered | None:
        try:
            view = await self._respond(batch.tenant_id, batch.endpoint, json.loads(request.body))
            status, body = 200, view.model_dump(mode="json")
        except AppError as error:
            if isinstance(error, BusyError | UnavailableError) and error.code != "out_of_memory":
                return None
            if error.status == 500:
                log_unforeseen(error.__cause__ or error)
            native = error_body(error.message, type=error.type, code=error.code, param=error.param)
            status, body = openai_error(error.status, native)
        response = {"status_code": status, "request_id": new_id("req"), "body": body}
        return Answered(request.line, status, response_line(request.custom_id, response, None))

    async def _respond(self, tenant_id: str, endpoint: str, content: dict[str, Any]) -> BaseModel:
        try:
            body = _BODIES[endpoint].model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            param = str(first["loc"][0]) if first["loc"] else None
            raise InvalidError(explain(first), code="invalid_value", param=param) from None
        if isinstance(body, EmbeddingInput):
            return await self._embeddings.embed(tenant_id, body)
        assert isinstance(body, CompletionsInput)
        if body.stream:
            message = "requests of a batch cannot be streamed: leave it out"
            raise InvalidError(message, code="unsupported_value", param="stream")
        return await (await self._completions.begin(tenant_id, body)).whole()
