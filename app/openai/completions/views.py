"""Response bodies of chat completions and completions, with OpenAI's field names."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

import ipt
from app.openai.completions.choices import Chosen, logprob, top_logprobs
from app.openai.completions.service import LabelScores

FinishReason = Literal["stop", "length"]


class UsageView(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> "UsageView":
        total = prompt_tokens + completion_tokens
        return cls(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)

    @classmethod
    def of_labels(cls, answered: Sequence[LabelScores], chosen: Sequence[Chosen]) -> "UsageView":
        """A label counts as one token."""
        return cls.of(sum(each.prompt_tokens for each in answered), sum(len(choice.labels) for choice in chosen))

    @classmethod
    def of_texts(cls, texts: Sequence[ipt.TextFinished], choices: int) -> "UsageView":
        """`texts` has the choices of the first prompt, then those of the second; each prompt counts once."""
        return cls.of(sum(text.input_tokens for text in texts[::choices]), sum(text.generated_tokens for text in texts))


class LabelLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]

    @classmethod
    def of(cls, label: str, value: float) -> "LabelLogprob":
        return cls(token=label, logprob=value, bytes=list(label.encode()))


class ChosenLogprob(LabelLogprob):
    top_logprobs: list[LabelLogprob]


class ChatLogprobs(BaseModel):
    content: Annotated[list[ChosenLogprob], Field(description="one entry for each label, which counts as one token")]
    refusal: None = None

    @classmethod
    def of_labels(cls, chosen: Chosen, top: int) -> "ChatLogprobs":
        tops = [LabelLogprob.of(*entry) for entry in top_logprobs(chosen.scores, top)]
        tokens = [LabelLogprob.of(label, logprob(chosen.scores[label])) for label in chosen.labels]
        return cls(content=[ChosenLogprob(**token.model_dump(), top_logprobs=tops) for token in tokens])


class MessageView(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: MessageView
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatView(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageView


class DeltaView(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: DeltaView
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageView | None = None


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of_labels(cls, chosen: Chosen, top: int) -> "TextLogprobs":
        tops = dict(top_logprobs(chosen.scores, top))
        return cls(
            tokens=chosen.labels,
            token_logprobs=[logprob(chosen.scores[label]) for label in chosen.labels],
            top_logprobs=[tops for _ in chosen.labels],
            # Behind the quotation mark in a list; a single label is the text, and begins it.
            text_offset=[chosen.text.find(json.dumps(label, ensure_ascii=False)) + 1 for label in chosen.labels],
        )


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None


class TextView(BaseModel):
    """The response, and each chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageView | None = None
