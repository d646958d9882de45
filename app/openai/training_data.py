"""Read training files: chat messages, `prompt` and `completion` pairs, and the service's own `input` and `output`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, field_validator, model_validator

from app.adaptations.schemas import LabelSet, Output
from app.http.fields import Listed, StrictBody, Text
from app.openai.json_lines import LineError, json_lines
from app.openai.messages import SYSTEM_ROLES, ChatMessage, input_text, system_text
from app.openai.prompts import strip_prompt, strip_stop_sequences
from app.validation_messages import explain
from ipt.data.examples import VISIBLE_TEXT, Example
from ipt.errors import DatasetError


class TrainedMessage(ChatMessage):
    weight: Literal[0, 1] = 1

    @model_validator(mode="after")
    def _only_assistants_have_weights(self) -> "TrainedMessage":
        if self.weight == 0 and self.role != "assistant":
            raise ValueError("only messages of the assistant have a weight")
        return self


class ChatLine(StrictBody):
    messages: Listed[TrainedMessage]
    tools: Any = None
    functions: Any = None

    @field_validator("tools", "functions")
    @classmethod
    def _no_tools(cls, tools: Any) -> Any:
        if tools:
            raise ValueError("tool calls are not supported: leave out the tools and their messages")
        return tools

    @field_validator("messages")
    @classmethod
    def _check_order(cls, messages: list[TrainedMessage]) -> list[TrainedMessage]:
        roles = [message.role for message in messages]
        turns = [role for role in roles if role not in SYSTEM_ROLES]
        if any(role in SYSTEM_ROLES for role in roles[len(roles) - len(turns) :]):
            raise ValueError("the system message must be the first one")
        if not turns or turns[0] != "user":
            raise ValueError("the first message after the system message must be the user's")
        if turns[-1] != "assistant":
            raise ValueError("the last message must be the assistant's, which is what the model learns to answer")
        if any(pair == ("assistant", "assistant") for pair in pairwise(turns)):
            raise ValueError("two messages of the assistant in a row: put a message of the user between them")
        if not any(message.role == "assistant" and message.weight for message in messages):
            raise ValueError("every message of the assistant has weight 0, so there is nothing to learn")
        return messages


class CompletionLine(StrictBody):
    prompt: Text
    completion: Text


class PairLine(StrictBody):
    input: Text
    output: Output


Line = ChatLine | CompletionLine | PairLine
_FORMATS: tuple[tuple[str, str, type[ChatLine] | type[CompletionLine] | type[PairLine]], ...] = (
    ("messages", "messages", ChatLine),
    ("prompt", "prompt and completion", CompletionLine),
    ("input", "input and output", PairLine),
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one example is made of: an answer, and the messages before it. A prompt is one message of the user."""

    line: int
    messages: tuple[ChatMessage, ...]
    answer: str
    with_stops: bool = False
    """Whether the answer is a completion, which may end with a stop sequence."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The examples of a training file, with the lines that they come from."""

    examples: list[dict[str, str]]
    lines: list[int]
    with_system: bool
    """Whether system messages are part of the inputs, because they differ."""
    notes: list[str]
    """What was left out of the texts."""
    has_label_lists: bool
    """Whether the answers are lists of labels, of which a text can have several."""


def read_conversations(content: bytes) -> Iterator[Conversation]:
    """Yield the examples of a training file; a line of several answers has several examples.

    Raises:
        LineError: the file cannot be used.
    """
    first_format = None
    for number, record in json_lines(content):
        formats = [entry for entry in _FORMATS if entry[0] in record]
        if not formats:
            named = ", or ".join(name for _, name, _ in _FORMATS)
            raise LineError(f"expected an object with {named}", line=number)
        if len(formats) > 1:
            fields = " and ".join(field for field, _, _ in formats)
            raise LineError(f"has both {fields}: keep the fields of one format", line=number)
        (line_format,) = formats
        first_format = first_format or line_format
        if line_format is not first_format:
            message = f"has {line_format[1]}, but the lines before have {first_format[1]}: use one format in a file"
            raise LineError(message, line=number)
        yield from _conversations(number, _parse(number, record, line_format[2]))
    if first_format is None:
        raise LineError("the file is empty: send one JSON object on each line")


def training_data(
    conversations: Sequence[Conversation], *, max_chars: int, with_system: bool | None = None
) -> TrainingData:
    """Return the examples of a training file's conversations.

    Args:
        conversations: from `read_conversations`.
        max_chars: as for `input_text`.
        with_system: for a validation file, the same as for its training file. None: whether system messages differ.
    """
    systems = {system_text(conversation.messages) for conversation in conversations}
    notes = []
    if with_system is None:
        with_system = len(systems) > 1
        if not with_system and systems != {""}:
            notes.append("The system message is the same in all examples and was left out of the inputs.")
    inputs = [
        input_text(conversation.messages, with_system=with_system, max_chars=max_chars)
        for conversation in conversations
    ]
    outputs = [conversation.answer for conversation in conversations]
    if conversations and conversations[0].with_stops:
        prompts, inputs = inputs, [strip_prompt(prompt) for prompt in inputs]
        if any(prompt.rstrip() != text.rstrip() for prompt, text in zip(prompts, inputs, strict=True)):
            notes.append("The separators at the end of the prompts were left out of the inputs.")
        outputs, stop_sequence = strip_stop_sequences(outputs)
        if stop_sequence is not None:
            notes.append(f"The stop sequence {stop_sequence!r} was left out of the completions.")
    examples = [{"input": text, "output": answer} for text, answer in zip(inputs, outputs, strict=True)]
    lines = [conversation.line for conversation in conversations]
    has_label_lists = any(isinstance(output, LabelSet) for output in outputs) or _repeat_in_lists(outputs)
    return TrainingData(examples, lines, with_system, notes, has_label_lists)


def _repeat_in_lists(answers: Sequence[str]) -> bool:
    """Return whether all answers are JSON lists of names that occur twice or more on average, as labels do."""
    try:
        names = [name for answer in answers for name in Example("", answer).labels]
    except DatasetError:
        return False
    return all(map(VISIBLE_TEXT.search, names)) and 0 < 2 * len(set(names)) <= len(names)


def _parse(number: int, record: dict[str, Any], line_type: type[BaseModel]) -> Any:
    try:
        return line_type.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ""
        for part in first["loc"]:
            if isinstance(part, int):
                field += f"[{part}]"
            elif part in _FIELDS:
                field += ("." if field else "") + part
        raise LineError(explain(first), line=number, field=field or None) from None


_FIELDS = {"messages", "role", "content", "weight", "text", "type", "tools", "functions"}
_FIELDS |= {"prompt", "completion", "input", "output"}


def _conversations(number: int, line: Line) -> Iterator[Conversation]:
    match line:
        case ChatLine(messages=messages):
            for index, message in enumerate(messages):
                if message.role == "assistant" and message.weight:
                    yield Conversation(number, tuple(messages[:index]), message.text)
        case CompletionLine(prompt=prompt, completion=completion):
            yield Conversation(number, (_user(prompt),), completion, with_stops=True)
        case PairLine(input=text, output=answer):
            yield Conversation(number, (_user(text),), answer)


def _user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)
