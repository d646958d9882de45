"""Field types for what callers send: texts that can be stored, numbers that are finite, bodies of bounded size."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ipt.data.examples import VISIBLE

_MOST_FIELDS = 32
_MOST_METADATA = 16
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_CONTROL = re.compile(CONTROL)
_VISIBLE = re.compile(VISIBLE)


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character, which cannot be stored")
    try:
        text.encode()
    except UnicodeEncodeError:
        # The original error quotes the text, so it is not kept as the cause.
        raise ValueError("holds a lone surrogate, which is not text") from None
    return text


def _some(text: str) -> str:
    if not _VISIBLE.search(text):
        raise ValueError("must not be empty, nor hold white space and invisible characters alone")
    return text


def _of_one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("holds a line break or another control character, which no name has")
    return text


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _MOST_METADATA:
        raise ValueError(f"has {len(value)} entries; at most {_MOST_METADATA} are taken")
    return value


Storable = Annotated[str, AfterValidator(_storable)]
Text = Annotated[Storable, AfterValidator(_some), Field(json_schema_extra={"minLength": 1, "pattern": VISIBLE})]
Id = Annotated[Storable, Field(max_length=64)]

Item = TypeVar("Item")
Listed = Annotated[list[Item], Field(fail_fast=True)]
"""A list whose check ends at its first wrong element, so that a hostile body makes one error and not millions."""

_OneLine = Annotated[Text, AfterValidator(_of_one_line), Field(json_schema_extra={"not": {"pattern": CONTROL}})]
Name = Annotated[_OneLine, Field(max_length=200)]
Metadata = Annotated[
    dict[Annotated[Name, Field(max_length=64)], Annotated[Storable, Field(max_length=512)]], BeforeValidator(_few)
]


class Body(BaseModel):
    """Base of what callers send: no unknown field, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MOST_FIELDS:
            raise ValueError(f"has {len(data)} fields; at most {_MOST_FIELDS} are taken")
        return data
