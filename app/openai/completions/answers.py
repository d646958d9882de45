"""Answers in OpenAI's two forms, whole and as a stream of chunks: of chat completions, and of completions."""

import json
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, cast

from pydantic import BaseModel

import ipt
from app.db.ids import new_id
from app.errors import InvalidError
from app.generations.streaming import EventForm
from app.openai.completions.choices import Chosen, Sampling, choose, choose_sets, cut
from app.openai.completions.label_format import ResponseFormat, label_format
from app.openai.completions.schemas import ChatInput, CompletionInput, CompletionsInput
from app.openai.completions.service import LabelScores
from app.openai.completions.views import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    ChatView,
    DeltaView,
    FinishReason,
    MessageView,
    TextChoice,
    TextLogprobs,
    TextView,
    UsageView,
)
from app.openai.dialect import openai_error

_END = b"data: [DONE]\n\n"


class Answers(EventForm):
    """Writes the answers of one request."""

    def __init__(
        self, body: CompletionsInput, id_prefix: str, *, top: int | None, requested: ResponseFormat | None = None
    ) -> None:
        self.body = body
        self.top = top
        """The number of labels with a logarithm of their probability, None if no logarithms were requested."""
        self.requested = requested
        self.common: dict[str, Any] = {
            "id": new_id(id_prefix, "-"),
            "created": int(time.time()),
            "model": body.model,
        }

    def check_text(self) -> None:
        """Check the request for a text-to-text task.

        Raises:
            InvalidError: it asks for what only classification tasks have.
        """
        if self.top is not None:
            raise InvalidError("only models that classify have logprobs", code="unsupported_value", param="logprobs")

    def text_schema(self) -> dict[str, Any] | None:
        """Return the JSON schema that texts have to fit, None if any text will do.

        Raises:
            InvalidError: the request asks for JSON without a schema.
        """
        if self.requested is None or self.requested.type == "text":
            return None
        schema = (self.requested.json_schema or {}).get("schema")
        if self.requested.type == "json_object" or not isinstance(schema, dict):
            message = "a model that writes text needs a schema: ask for the type json_schema, with json_schema.schema"
            raise InvalidError(message, code="unsupported_value", param="response_format")
        return schema

    def of_labels(self, answered: Sequence[LabelScores]) -> BaseModel:
        """Return the response of a classification task, given the scores for each prompt; raises as `_choose` does."""
        chosen = self._choose(answered)
        return self.labels_view(chosen, UsageView.of_labels(answered, chosen))

    def stream_labels(self, answered: Sequence[LabelScores]) -> bytes:
        """Return the whole stream of a classification task, whose answer is known at once; raises as `_choose` does."""
        chosen = self._choose(answered)
        chunks = [_event(chunk) for chunk in self.label_chunks(chosen)]
        if self.body.with_usage:
            chunks.append(_event(self.usage_chunk(UsageView.of_labels(answered, chosen))))
        return b"".join([*chunks, _END])

    @abstractmethod
    def labels_view(self, chosen: Sequence[Chosen], usage: UsageView) -> BaseModel:
        """Return the response of a classification task, given the choices of all prompts."""

    @abstractmethod
    def of_texts(self, texts: Sequence[ipt.TextFinished]) -> BaseModel:
        """Return the response of a text-to-text task, given the texts of all choices."""

    @abstractmethod
    def label_chunks(self, chosen: Sequence[Chosen]) -> Iterator[BaseModel]:
        """Yield the chunks of a classification task's stream."""

    @abstractmethod
    def first_chunks(self, choices: int) -> Iterator[BaseModel]:
        """Yield the chunks that open the stream of a text-to-text task."""

    @abstractmethod
    def delta_chunk(self, index: int, text: str, reason: FinishReason | None) -> BaseModel:
        """Return the chunk for the next piece of a text, or for its end."""

    @abstractmethod
    def usage_chunk(self, usage: UsageView) -> BaseModel:
        """Return the chunk of the usage, which ends a stream on request."""

    def begun(self, texts: int) -> bytes:
        return b"".join(map(_event, self.first_chunks(texts)))

    def delta(self, index: int, text: str) -> bytes:
        return _event(self.delta_chunk(index, text, None))

    def finished(self, index: int, text: ipt.TextFinished) -> bytes:
        return _event(self.delta_chunk(index, "", cast(FinishReason, text.reason)))

    def failed(self, status: int, body: dict[str, Any]) -> bytes:
        return f"data: {json.dumps(openai_error(status, body)[1])}\n\n".encode()

    def ended(self, texts: Sequence[ipt.TextFinished]) -> bytes:
        usage = _event(self.usage_chunk(UsageView.of_texts(texts, self.body.choices))) if self.body.with_usage else b""
        return usage + _END

    def _choose(self, answered: Sequence[LabelScores]) -> list[Chosen]:
        """Return the choices of all prompts.

        Raises:
            InvalidError: the request asks for JSON of a form that the labels cannot have.
        """
        body = self.body
        sampling = Sampling(body.temperature, body.top_p, body.own_seed)
        chosen = []
        for each in answered:
            form = label_format(self.requested, several=each.answered is not None)
            scores = form.restrict(each.scores)
            if each.answered is None:
                sets = [[label] for label in choose(scores, body.choices, sampling)]
            else:
                sets = choose_sets(scores, each.answered, body.choices, sampling)
            chosen += [Chosen(labels, scores, cut(form.write(labels), body.stops)) for labels in sets]
        return chosen


class ChatAnswers(Answers):
    """Answers of `/chat/completions`."""

    def __init__(self, body: ChatInput) -> None:
        top = (body.top_logprobs or 0) if body.logprobs else None
        super().__init__(body, "chatcmpl", top=top, requested=body.response_format)

    def labels_view(self, chosen: Sequence[Chosen], usage: UsageView) -> BaseModel:
        choices = [
            ChatChoice(
                index=index,
                message=MessageView(content=choice.text),
                logprobs=self._logprobs(choice),
                finish_reason="stop",
            )
            for index, choice in enumerate(chosen)
        ]
        return ChatView(**self.common, choices=choices, usage=usage)

    def of_texts(self, texts: Sequence[ipt.TextFinished]) -> BaseModel:
        choices = [
            ChatChoice(
                index=index, message=MessageView(content=text.text), finish_reason=cast(FinishReason, text.reason)
            )
            for index, text in enumerate(texts)
        ]
        return ChatView(**self.common, choices=choices, usage=UsageView.of_texts(texts, self.body.choices))

    def label_chunks(self, chosen: Sequence[Chosen]) -> Iterator[BaseModel]:
        for index, choice in enumerate(chosen):
            yield self._chunk(index, DeltaView(role="assistant", content=""))
            yield self._chunk(index, DeltaView(content=choice.text), self._logprobs(choice))
            yield self._chunk(index, DeltaView(), reason="stop")

    def first_chunks(self, choices: int) -> Iterator[BaseModel]:
        for index in range(choices):
            yield self._chunk(index, DeltaView(role="assistant", content=""))

    def delta_chunk(self, index: int, text: str, reason: FinishReason | None) -> BaseModel:
        return self._chunk(index, DeltaView(content=text or None), reason=reason)

    def usage_chunk(self, usage: UsageView) -> BaseModel:
        return ChatChunk(**self.common, choices=[], usage=usage)

    def _logprobs(self, choice: Chosen) -> ChatLogprobs | None:
        return None if self.top is None else ChatLogprobs.of_labels(choice, self.top)

    def _chunk(
        self,
        index: int,
        delta: DeltaView,
        logprobs: ChatLogprobs | None = None,
        reason: FinishReason | None = None,
    ) -> ChatChunk:
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)
        return ChatChunk(**self.common, choices=[choice])


class CompletionAnswers(Answers):
    """Answers of `/completions`."""

    def __init__(self, body: CompletionInput) -> None:
        super().__init__(body, "cmpl", top=body.logprobs)

    def labels_view(self, chosen: Sequence[Chosen], usage: UsageView) -> BaseModel:
        return TextView(**self.common, choices=list(self._label_choices(chosen)), usage=usage)

    def of_texts(self, texts: Sequence[ipt.TextFinished]) -> BaseModel:
        choices = [
            TextChoice(index=index, text=text.text, finish_reason=cast(FinishReason, text.reason))
            for index, text in enumerate(texts)
        ]
        return TextView(**self.common, choices=choices, usage=UsageView.of_texts(texts, self.body.choices))

    def label_chunks(self, chosen: Sequence[Chosen]) -> Iterator[BaseModel]:
        for choice in self._label_choices(chosen):
            yield TextView(**self.common, choices=[choice])

    def first_chunks(self, choices: int) -> Iterator[BaseModel]:  # noqa: ARG002 - only chats announce a role
        yield from ()

    def delta_chunk(self, index: int, text: str, reason: FinishReason | None) -> BaseModel:
        return TextView(**self.common, choices=[TextChoice(index=index, text=text, finish_reason=reason)])

    def usage_chunk(self, usage: UsageView) -> BaseModel:
        return TextView(**self.common, choices=[], usage=usage)

    def _label_choices(self, chosen: Sequence[Chosen]) -> Iterator[TextChoice]:
        for index, choice in enumerate(chosen):
            logprobs = None if self.top is None else TextLogprobs.of_labels(choice, self.top)
            yield TextChoice(index=index, text=choice.text, logprobs=logprobs, finish_reason="stop")


def _event(chunk: BaseModel) -> bytes:
    """Return a server-sent event as OpenAI writes it: without a name, with unset fields left out."""
    return f"data: {chunk.model_dump_json(exclude_none=True)}\n\n".encode()
