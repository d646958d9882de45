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
from app.openai.completions.choices import Sampling, choose, cut
from app.openai.completions.label_format import label_format
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

    def __init__(self, body: CompletionsInput, id_prefix: str) -> None:
        self.body = body
        self.common: dict[str, Any] = {
            "id": new_id(id_prefix, "-"),
            "created": int(time.time()),
            "model": body.model,
        }

    def check_labels(self) -> None:
        """Check the request for a classification task.

        Raises:
            InvalidError: it asks for JSON of a form that a label cannot have.
        """

    def text_schema(self) -> dict[str, Any] | None:
        """Return the JSON schema that texts have to fit, None if any text will do.

        Raises:
            InvalidError: the request asks for JSON without a schema.
        """
        return None

    @abstractmethod
    def of_labels(self, answered: Sequence[LabelScores]) -> BaseModel:
        """Return the response of a classification task, given the scores for each prompt."""

    @abstractmethod
    def of_texts(self, texts: Sequence[ipt.TextFinished]) -> BaseModel:
        """Return the response of a text-to-text task, given the texts of all choices."""

    @abstractmethod
    def label_chunks(self, answered: Sequence[LabelScores]) -> Iterator[BaseModel]:
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

    def stream_labels(self, answered: Sequence[LabelScores]) -> bytes:
        """Return the whole stream of a classification task, whose answer is known at once."""
        chunks = [_event(chunk) for chunk in self.label_chunks(answered)]
        if self.body.with_usage:
            chunks.append(_event(self.usage_chunk(UsageView.of_labels(answered, self.body.choices))))
        return b"".join([*chunks, _END])

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

    def choose(self, scores: dict[str, float]) -> list[str]:
        """Return the labels of all choices of one prompt."""
        body = self.body
        return choose(scores, body.choices, Sampling(body.temperature, body.top_p, body.own_seed))


class ChatAnswers(Answers):
    """Answers of `/chat/completions`."""

    def __init__(self, body: ChatInput) -> None:
        super().__init__(body, "chatcmpl")
        self._requested = body.response_format
        self._top = (body.top_logprobs or 0) if body.logprobs else None

    def check_text(self) -> None:
        """Check the request for a text-to-text task.

        Raises:
            InvalidError: it asks for what only classification tasks have.
        """
        if self._top is not None:
            raise InvalidError("only models that classify have logprobs", code="unsupported_value", param="logprobs")

    def check_labels(self) -> None:
        label_format(self._requested)

    def text_schema(self) -> dict[str, Any] | None:
        if self._requested is None or self._requested.type == "text":
            return None
        schema = (self._requested.json_schema or {}).get("schema")
        if self._requested.type == "json_object" or not isinstance(schema, dict):
            message = "a model that writes text needs a schema: ask for the type json_schema, with json_schema.schema"
            raise InvalidError(message, code="unsupported_value", param="response_format")
        return schema

    def of_labels(self, answered: Sequence[LabelScores]) -> BaseModel:
        choices = [
            ChatChoice(index=index, message=MessageView(content=content), logprobs=logprobs, finish_reason="stop")
            for index, (content, logprobs) in enumerate(self._labels(answered))
        ]
        return ChatView(**self.common, choices=choices, usage=UsageView.of_labels(answered, self.body.choices))

    def of_texts(self, texts: Sequence[ipt.TextFinished]) -> BaseModel:
        choices = [
            ChatChoice(
                index=index, message=MessageView(content=text.text), finish_reason=cast(FinishReason, text.reason)
            )
            for index, text in enumerate(texts)
        ]
        return ChatView(**self.common, choices=choices, usage=UsageView.of_texts(texts, self.body.choices))

    def label_chunks(self, answered: Sequence[LabelScores]) -> Iterator[BaseModel]:
        for index, (content, logprobs) in enumerate(self._labels(answered)):
            yield self._chunk(index, DeltaView(role="assistant", content=""))
            yield self._chunk(index, DeltaView(content=content), logprobs)
            yield self._chunk(index, DeltaView(), reason="stop")

    def first_chunks(self, choices: int) -> Iterator[BaseModel]:
        for index in range(choices):
            yield self._chunk(index, DeltaView(role="assistant", content=""))

    def delta_chunk(self, index: int, text: str, reason: FinishReason | None) -> BaseModel:
        return self._chunk(index, DeltaView(content=text or None), reason=reason)

    def usage_chunk(self, usage: UsageView) -> BaseModel:
        return ChatChunk(**self.common, choices=[], usage=usage)

    def _labels(self, answered: Sequence[LabelScores]) -> Iterator[tuple[str, ChatLogprobs | None]]:
        """Yield the content of each choice; a conversation is one prompt."""
        form = label_format(self._requested)
        for each in answered:
            scores = form.restrict(each.scores)
            for label in self.choose(scores):
                logprobs = None if self._top is None else ChatLogprobs.of_label(label, scores, self._top)
                yield cut(form.write(label), self.body.stops), logprobs

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
        super().__init__(body, "cmpl")
        self._top = body.logprobs

    def check_text(self) -> None:
        """As `ChatAnswers.check_text`."""
        if self._top is not None:
            raise InvalidError("only models that classify have logprobs", code="unsupported_value", param="logprobs")

    def of_labels(self, answered: Sequence[LabelScores]) -> BaseModel:
        usage = UsageView.of_labels(answered, self.body.choices)
        return TextView(**self.common, choices=list(self._label_choices(answered)), usage=usage)

    def of_texts(self, texts: Sequence[ipt.TextFinished]) -> BaseModel:
        choices = [
            TextChoice(index=index, text=text.text, finish_reason=cast(FinishReason, text.reason))
            for index, text in enumerate(texts)
        ]
        return TextView(**self.common, choices=choices, usage=UsageView.of_texts(texts, self.body.choices))

    def label_chunks(self, answered: Sequence[LabelScores]) -> Iterator[BaseModel]:
        for choice in self._label_choices(answered):
            yield TextView(**self.common, choices=[choice])

    def first_chunks(self, choices: int) -> Iterator[BaseModel]:  # noqa: ARG002 - only chats announce a role
        yield from ()

    def delta_chunk(self, index: int, text: str, reason: FinishReason | None) -> BaseModel:
        return TextView(**self.common, choices=[TextChoice(index=index, text=text, finish_reason=reason)])

    def usage_chunk(self, usage: UsageView) -> BaseModel:
        return TextView(**self.common, choices=[], usage=usage)

    def _label_choices(self, answered: Sequence[LabelScores]) -> Iterator[TextChoice]:
        labels = ((label, each.scores) for each in answered for label in self.choose(each.scores))
        for index, (label, scores) in enumerate(labels):
            logprobs = None if self._top is None else TextLogprobs.of_label(label, scores, self._top)
            text = cut(label, self.body.stops)
            yield TextChoice(index=index, text=text, logprobs=logprobs, finish_reason="stop")


def _event(chunk: BaseModel) -> bytes:
    """Return a server-sent event as OpenAI writes it: without a name, with unset fields left out."""
    return f"data: {chunk.model_dump_json(exclude_none=True)}\n\n".encode()
