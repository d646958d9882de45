"""Generations on the wire."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

import ipt
from app.http.fields import Body, Listed, Storable, Text
from ipt.generation.parameters import LONGEST_STOP_STRING, MOST_BEAMS, MOST_STOP_STRINGS
from ipt.tuning.job import SEED

_LARGEST = 2**31 - 1
_PARAMETERS = {"max_new_tokens", "temperature", "top_p", "top_k", "seed", "num_beams", "stop"}
# One of the two, as `_one_of_both` asks for it.
_EITHER: list[JsonValue] = [
    {"required": ["input"], "properties": {"input": {"type": "string"}, "inputs": {"type": "null"}}},
    {"required": ["inputs"], "properties": {"inputs": {"type": "array"}, "input": {"type": "null"}}},
]


class GenerateInput(Body):
    """Texts to write for one task, each to its own input."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _EITHER})

    input: Text | None = Field(default=None, description="one input", examples=["The parcel never came"])
    inputs: Annotated[Listed[Text], Field(min_length=1)] | None = Field(
        default=None, description="several, in place of `input`", examples=[None]
    )
    version: Annotated[int, Field(ge=1, le=_LARGEST)] | None = Field(
        default=None, description="which version of the task writes; the newest one without it", examples=[None]
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=_LARGEST)] | None = Field(
        default=None, description="most tokens of a text; 64 without it", examples=[64]
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None, description="0, as without it, takes the likeliest token each time", examples=[0.7]
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="draw from the fewest tokens that have this probability together", examples=[0.9]
    )
    top_k: Annotated[int, Field(ge=1, le=_LARGEST)] | None = Field(
        default=None, description="draw from so many of the likeliest tokens", examples=[50]
    )
    seed: Annotated[int, Field(ge=SEED.smallest, le=SEED.largest)] | None = Field(
        default=None, description="the same seed draws the same text", examples=[7]
    )
    num_beams: Annotated[int, Field(ge=1, le=MOST_BEAMS)] | None = Field(
        default=None, description="search with so many beams, in place of a temperature", examples=[None]
    )
    stop: (
        Annotated[
            Listed[Annotated[Storable, Field(min_length=1, max_length=LONGEST_STOP_STRING)]],
            Field(max_length=MOST_STOP_STRINGS),
        ]
        | None
    ) = Field(default=None, description="a text ends before the first of these", examples=[["\n\n"]])
    stream: bool = Field(default=False, description="answer with server-sent events while the texts are written")

    @model_validator(mode="after")
    def _one_of_both(self) -> "GenerateInput":
        if (self.input is None) == (self.inputs is None):
            raise ValueError("needs either `input` or `inputs`")
        return self

    @property
    def all_inputs(self) -> list[str]:
        """The inputs, however they were given."""
        return self.inputs if self.inputs is not None else [self.input or ""]

    def parameters(self) -> dict[str, Any]:
        """Those parameters of `ipt.GenerationParameters` that the caller named."""
        named = self.model_dump(include=_PARAMETERS, exclude_none=True)
        return named | {"stop": tuple(named.get("stop", ()))}


Reason = Literal["stop", "length"]


class GenerationView(BaseModel):
    text: str = Field(description="without white space around it", examples=["We are sorry, and look for it."])
    finish_reason: Reason = Field(
        description="`stop` at its own end or a stop string, `length` at `max_new_tokens`", examples=["stop"]
    )


class UsageView(BaseModel):
    """Of all texts of the request."""

    input_tokens: int = Field(description="tokens of the inputs that were read, prompts not counted", examples=[5])
    generated_tokens: int = Field(description="tokens that were written, those that end a text among them")
    truncated_inputs: int = Field(description="inputs that were too long to be read whole", examples=[0])

    @classmethod
    def of(cls, texts: Sequence[ipt.TextFinished]) -> "UsageView":
        return cls(
            input_tokens=sum(text.input_tokens for text in texts),
            generated_tokens=sum(text.generated_tokens for text in texts),
            truncated_inputs=sum(text.truncated for text in texts),
        )


class GenerateView(BaseModel):
    task_id: str
    task_version: int = Field(description="the version that wrote")
    generations: list[GenerationView] = Field(description="one per input, in the same order")
    usage: UsageView


class DeltaView(BaseModel):
    """A further piece of a text; all pieces together are the text."""

    index: int = Field(description="which input it belongs to")
    text: str


class FinishedView(BaseModel):
    """A text has ended."""

    index: int
    finish_reason: Reason


class DoneView(BaseModel):
    """All texts have ended."""

    task_id: str
    task_version: int
    usage: UsageView
