"""Request and response bodies of generations."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

import ipt
from app.http.fields import Body, Listed, Storable, Text, VersionNumber
from ipt.generation.parameters import MAX_BEAMS, MAX_STOP_STRING_CHARS, MAX_STOP_STRINGS
from ipt.tuning.job import SEED

_LARGEST = 2**31 - 1
_PARAMETERS = {"max_new_tokens", "temperature", "top_p", "top_k", "seed", "num_beams", "stop"}
# Exactly one of `input` and `inputs`, as `_input_or_inputs` checks.
_INPUT_OR_INPUTS: list[JsonValue] = [
    {"required": ["input"], "properties": {"input": {"type": "string"}, "inputs": {"type": "null"}}},
    {"required": ["inputs"], "properties": {"inputs": {"type": "array"}, "input": {"type": "null"}}},
]


class JsonFormat(Body):
    """The form of a text."""

    json_schema: dict[str, JsonValue] = Field(
        description="the text is JSON that fits this schema; objects have only the properties that it lists",
        examples=[{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}],
    )


class GenerateInput(Body):
    """Inputs of one task to generate texts for."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _INPUT_OR_INPUTS})

    input: Text | None = Field(default=None, description="one input", examples=["The parcel never came"])
    inputs: Annotated[Listed[Text], Field(min_length=1)] | None = Field(
        default=None, description="several inputs, instead of `input`", examples=[None]
    )
    version: VersionNumber | None = Field(
        default=None, description="the version of the task to use; the newest by default", examples=[None]
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=_LARGEST)] | None = Field(
        default=None, description="most tokens of a text; 64 by default", examples=[64]
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None, description="0, the default, is greedy decoding; above 0 samples", examples=[0.7]
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="sample from the fewest tokens with this total probability",
        examples=[0.9],
    )
    top_k: Annotated[int, Field(ge=1, le=_LARGEST)] | None = Field(
        default=None, description="sample from this many of the most likely tokens", examples=[50]
    )
    seed: Annotated[int, Field(ge=SEED.smallest, le=SEED.largest)] | None = Field(
        default=None, description="the same seed samples the same text", examples=[7]
    )
    num_beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] | None = Field(
        default=None, description="beam search with this many beams; excludes a temperature", examples=[None]
    )
    stop: (
        Annotated[
            Listed[Annotated[Storable, Field(min_length=1, max_length=MAX_STOP_STRING_CHARS)]],
            Field(max_length=MAX_STOP_STRINGS),
        ]
        | None
    ) = Field(default=None, description="a text ends before the first of these strings", examples=[["\n\n"]])
    format: JsonFormat | None = Field(default=None, description="excludes `num_beams` and `stop`", examples=[None])
    stream: bool = Field(default=False, description="respond with server-sent events while the texts are generated")

    @model_validator(mode="after")
    def _input_or_inputs(self) -> "GenerateInput":
        if (self.input is None) == (self.inputs is None):
            raise ValueError("needs either `input` or `inputs`")
        return self

    @property
    def all_inputs(self) -> list[str]:
        """The value of `inputs`, or `input` as a list."""
        return self.inputs if self.inputs is not None else [self.input or ""]

    def parameters(self) -> dict[str, Any]:
        """Return the arguments of `ipt.GenerationParameters` that the caller has set."""
        values = self.model_dump(include=_PARAMETERS, exclude_none=True)
        values["stop"] = tuple(values.get("stop", ()))
        return values if self.format is None else values | {"json_schema": self.format.json_schema}


Reason = Literal["stop", "length"]
"""Texts that were cancelled or failed do not reach the response."""


class GenerationView(BaseModel):
    text: str = Field(
        description="the generated text, without surrounding white space", examples=["We are sorry, and look for it."]
    )
    finish_reason: Reason = Field(
        description="`stop`: end of text or a stop string; `length`: `max_new_tokens` reached, where JSON is closed",
        examples=["stop"],
    )

    @classmethod
    def of(cls, text: ipt.TextFinished) -> "GenerationView":
        return cls(text=text.text, finish_reason=cast(Reason, text.reason))


class UsageView(BaseModel):
    """Totals over all texts of the request."""

    input_tokens: int = Field(description="input tokens read, without prompts", examples=[5])
    generated_tokens: int = Field(description="tokens generated, end-of-text tokens included")
    truncated_inputs: int = Field(description="inputs that were too long to be read completely", examples=[0])

    @classmethod
    def of(cls, texts: Sequence[ipt.TextFinished]) -> "UsageView":
        return cls(
            input_tokens=sum(text.input_tokens for text in texts),
            generated_tokens=sum(text.generated_tokens for text in texts),
            truncated_inputs=sum(text.truncated for text in texts),
        )


class GenerateView(BaseModel):
    task_id: str
    task_version: int = Field(description="the version used")
    generations: list[GenerationView] = Field(description="one per input, in the same order")
    usage: UsageView


class DeltaView(BaseModel):
    """The next piece of a text; the pieces joined are the text."""

    index: int = Field(description="the index of the input")
    text: str


class FinishedView(BaseModel):
    """A text has ended."""

    index: int
    finish_reason: Reason

    @classmethod
    def of(cls, index: int, text: ipt.TextFinished) -> "FinishedView":
        return cls(index=index, finish_reason=cast(Reason, text.reason))


class DoneView(BaseModel):
    """All texts have ended."""

    task_id: str
    task_version: int
    usage: UsageView
