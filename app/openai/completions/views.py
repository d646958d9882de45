"""Response bodies of chat completions and completions, with OpenAI's field names."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

import ipt
from app.openai.completions.choices import logprob, top_logprobs
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
    def of_labels(cls, answered: Sequence[LabelScores], choices: int) -> "UsageView":
        """A label counts as one token."""
        return cls.of(sum(each.prompt_tokens for each in answered), len(answered) * choices)

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
    content: Annotated[list[ChosenLogprob], Field(description="one entry: a whole label counts as one token")]
    refusal: None = None

    @classmethod
    def of_label(cls, label: str, scores: dict[str, float], top: int) -> "ChatLogprobs":
        tops = [LabelLogprob.of(*entry) for entry in top_logprobs(scores, top)]
        chosen = LabelLogprob.of(label, logprob(scores[label]))
        return cls(content=[ChosenLogprob(**chosen.model_dump(), top_logprobs=tops)])


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
    def of_label(cls, label: str, scores: dict[str, float], top: int) -> "TextLogprobs":
        return cls(
            tokens=[label],
            token_logprobs=[logprob(scores[label])],
            top_logprobs=[dict(top_logprobs(scores, top))],
            text_offset=[0],
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
