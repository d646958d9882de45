"""Chat messages: their schema, and the rule that makes one input text of a conversation."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from app.http.fields import Listed, StrictBody, Text

SYSTEM_ROLES = ("system", "developer")
ENCODER_INPUT_CHARS = 500
"""Most characters of a conversation's turns for an encoder, which reads 128 tokens and cuts the end of a text."""

_PLAIN_TEXT = "only text is supported: remove images, audio and files"


class TextPart(StrictBody):
    type: Literal["text"]
    text: Text


class ChatMessage(StrictBody):
    """A message of a conversation; fields that OpenAI's API has besides these are ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[Listed[TextPart], Field(min_length=1, max_length=64)]

    @model_validator(mode="before")
    @classmethod
    def _check_supported(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        if message.get("role") in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            raise ValueError("tool calls are not supported: leave out the tools and their messages")
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and part.get("type", "text") != "text":
                    raise ValueError(_PLAIN_TEXT)
        return message

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


def system_text(messages: Sequence[ChatMessage]) -> str:
    """Return the system messages of a conversation as one text, empty if it has none."""
    return "\n".join(message.text for message in messages if message.role in SYSTEM_ROLES)


def input_text(messages: Sequence[ChatMessage], *, with_system: bool, max_chars: int) -> str:
    """Return the input text of a conversation, by the same rule in tuning and in answering.

    A single message is its own text. Several messages are one line each, `role: text`, without the first ones if the
    lines have more than `max_chars` characters together. System messages count only if `with_system`.
    """
    turns = [message for message in messages if with_system or message.role not in SYSTEM_ROLES]
    if len(turns) == 1:
        return turns[0].text
    lines = [f"{message.role}: {message.text}" for message in turns]
    size = sum(map(len, lines)) + len(lines) - 1
    first = 0
    while size > max_chars and first < len(lines) - 1:
        size -= len(lines[first]) + 1
        first += 1
    return "\n".join(lines[first:])
