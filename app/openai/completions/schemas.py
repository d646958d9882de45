"""Request bodies of chat completions and completions, with OpenAI's field names."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from app.errors import InvalidError
from app.http.fields import Listed, Storable, StrictBody, Text, is_field_name
from app.openai.completions.label_format import ResponseFormat
from app.openai.messages import SYSTEM_ROLES, ChatMessage
from ipt.generation.parameters import MAX_STOP_STRING_CHARS, MAX_STOP_STRINGS

_LARGEST = 2**31 - 1
_SEEDS = 2**32
_StopString = Annotated[Storable, Field(min_length=1, max_length=MAX_STOP_STRING_CHARS)]

ModelName = Annotated[Storable, Field(max_length=512)]
TokenLimit = Annotated[int, Field(ge=1, le=_LARGEST)]
_REJECTED: dict[str, tuple[Any, ...]] = {
    # Fields that would change the answer, with the values that change nothing.
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "web_search_options": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
}


class StreamOptions(StrictBody):
    include_usage: bool | None = None


class CompletionsInput(StrictBody):
    """The fields that chat completions and completions share; `check_supported` sorts all other fields."""

    model_config = ConfigDict(extra="allow")

    model: ModelName = Field(description="a fine-tuned model", examples=["ft:all-MiniLM-L6-v2:default:tickets:…"])
    n: Annotated[int, Field(ge=1, le=128)] | None = Field(default=None, description="choices of each prompt")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="0, the default here, takes the most likely answer; above 0 samples"
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: _StopString | Annotated[Listed[_StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    max_tokens: TokenLimit | None = Field(default=None, description="a label counts as one token")
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check_supported(self) -> None:
        """Reject a field that would change the answer and is not supported.

        Raises:
            InvalidError: names the field.
        """
        for name, value in (self.model_extra or {}).items():
            if name in _REJECTED and value not in _REJECTED[name]:
                message = "would change the answer and is not supported: leave it out"
                raise InvalidError(message, code="unsupported_parameter", param=name)

    @property
    def choices(self) -> int:
        """The number of choices of each prompt."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def own_seed(self) -> int | None:
        """The seed in the range of the service's own seeds."""
        return None if self.seed is None else self.seed % _SEEDS

    @property
    def ignored_fields(self) -> list[str]:
        """The names of the fields that were sent and have no effect."""
        return sorted(name for name in self.model_extra or {} if name not in _REJECTED and is_field_name(name))


class ChatInput(CompletionsInput):
    messages: Listed[ChatMessage] = Field(min_length=1)
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = Field(default=None, description="for classification; a whole label counts as one token")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _check_messages(self) -> "ChatInput":
        if all(message.role in SYSTEM_ROLES for message in self.messages):
            raise ValueError("needs a message of the user, not only system messages")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("has top_logprobs, which needs logprobs: true")
        return self

    @property
    def token_limit(self) -> int | None:
        """Most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens


class CompletionInput(CompletionsInput):
    prompt: Text | Annotated[Listed[Text], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None

    @model_validator(mode="after")
    def _check_best_of(self) -> "CompletionInput":
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("has a best_of other than n, but answers are not ranked: leave it out")
        return self

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt
