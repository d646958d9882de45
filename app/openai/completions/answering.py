"""Answer chat completions and completions, for callers who wait and for batches."""

import threading
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from app.errors import ConflictError, InvalidError, NotFoundError
from app.generations.service import Generation
from app.http.text_limits import check_input_count, check_text_length
from app.openai.completions.answers import ChatAnswers, CompletionAnswers
from app.openai.completions.schemas import ChatInput, CompletionInput, CompletionsInput
from app.openai.completions.service import Completions, LabelScores, task_of
from app.openai.errors import as_model_error
from app.openai.messages import ENCODER_INPUT_CHARS, input_text
from app.openai.prompts import strip_prompt
from app.settings import Settings

_LEAST_TOP_P = 1e-6
"""Stands for 0, which takes the most likely token."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that is answered, or whose texts are being generated, and the form of its response."""

    answers: ChatAnswers | CompletionAnswers
    result: list[LabelScores] | Generation

    async def whole(self) -> BaseModel:
        """Return the response once all texts have ended."""
        if isinstance(self.result, Generation):
            return self.answers.of_texts(await self.result.texts())
        return self.answers.of_labels(self.result)


@dataclass(frozen=True, slots=True)
class Answering:
    """Answers requests of both forms for all tenants in this process."""

    settings: Settings
    completions: Completions
    stopping: threading.Event

    async def begin(self, tenant_id: str, body: CompletionsInput) -> Begun:
        """Classify the texts of a request, or begin to generate its texts.

        Raises:
            InvalidError: a field is not supported, or a text or their number exceeds a limit.
            NotFoundError: the tenant has no such model.
            BusyError: too many texts of the tenant are waiting.
            UnavailableError: the model is not loaded, is out of memory, or the service is stopping.
        """
        try:
            if isinstance(body, ChatInput):
                return await self._begin_chat(tenant_id, body)
            assert isinstance(body, CompletionInput)
            prompts = [strip_prompt(prompt) for prompt in body.prompts]
            return await self._begin(tenant_id, CompletionAnswers(body), prompts, "prompt", body.max_tokens)
        except (NotFoundError, ConflictError) as error:
            raise as_model_error(body.model, error) from error

    async def _begin_chat(self, tenant_id: str, body: ChatInput) -> Begun:
        task_id = task_of(body.model)
        with_system = await self.completions.with_system(tenant_id, task_id)
        is_encoder = await self.completions.family(tenant_id, task_id) == "encoder"
        max_chars = ENCODER_INPUT_CHARS if is_encoder else self.settings.max_text_chars
        text = input_text(body.messages, with_system=with_system, max_chars=max_chars)
        return await self._begin(tenant_id, ChatAnswers(body), [text], "messages", body.token_limit)

    async def _begin(
        self,
        tenant_id: str,
        answers: ChatAnswers | CompletionAnswers,
        texts: list[str],
        param: str,
        token_limit: int | None,
    ) -> Begun:
        """Answer each text as often as the request asks."""
        body = answers.body
        task_id = task_of(body.model)
        body.check_supported()
        for text in texts:
            check_text_length(self.settings, text, param)
        check_input_count(self.settings, len(texts) * body.choices, "n" if len(texts) == 1 else param)
        if not await self.completions.writes_text(tenant_id, task_id):
            return Begun(answers, await self.completions.classify(tenant_id, task_id, texts))
        answers.check_text()
        if body.choices > 1 and body.seed is not None and body.temperature:
            message = "one seed gives the same text for every choice: leave out the seed, or ask for one choice"
            raise InvalidError(message, code="unsupported_value", param="seed")
        inputs = [text for text in texts for _ in range(body.choices)]
        requested = {
            "max_new_tokens": token_limit,
            "temperature": body.temperature,
            "top_p": None if body.top_p is None else max(body.top_p, _LEAST_TOP_P),
            "seed": body.own_seed,
            "json_schema": answers.text_schema(),
        }
        options: dict[str, Any] = {name: value for name, value in requested.items() if value is not None}
        options["stop"] = tuple(body.stops)
        return Begun(answers, await self.completions.generate(tenant_id, task_id, inputs, options, self.stopping))
