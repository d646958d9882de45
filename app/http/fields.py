"""Field types for request bodies: text that can be stored, finite numbers, objects of bounded size."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ipt.data.examples import VISIBLE

_MAX_FIELDS = 32
_MAX_METADATA_ENTRIES = 16
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_CONTROL = re.compile(CONTROL)
_VISIBLE = re.compile(VISIBLE)
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def is_field_name(name: str) -> bool:
    """Return whether `name` has the form of the API's field names; errors never repeat any other name."""
    return _FIELD_NAME.fullmatch(name) is not None


def _check_storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character, which cannot be stored")
    try:
        text.encode()
    except UnicodeEncodeError:
        # The original error quotes the text, so it is not kept as the cause.
        raise ValueError("contains a lone surrogate, which is not valid text") from None
    return text


def _check_visible(text: str) -> str:
    if not _VISIBLE.search(text):
        raise ValueError("must contain at least one visible character")
    return text


def _check_one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("contains a line break or another control character, which a name must not contain")
    return text


def _check_metadata_size(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _MAX_METADATA_ENTRIES:
        raise ValueError(f"has {len(value)} entries; at most {_MAX_METADATA_ENTRIES} are allowed")
    return value


Storable = Annotated[str, AfterValidator(_check_storable)]
Text = Annotated[
    Storable, AfterValidator(_check_visible), Field(json_schema_extra={"minLength": 1, "pattern": VISIBLE})
]
Id = Annotated[Storable, Field(max_length=64)]


VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""The number of a task's version, in a request body."""

Item = TypeVar("Item")
Listed = Annotated[list[Item], Field(fail_fast=True)]
"""A list whose validation stops at the first wrong element: a hostile body gets one error, not millions."""

_OneLine = Annotated[Text, AfterValidator(_check_one_line), Field(json_schema_extra={"not": {"pattern": CONTROL}})]
Name = Annotated[_OneLine, Field(max_length=200)]
Metadata = Annotated[
    dict[Annotated[Name, Field(max_length=64)], Annotated[Storable, Field(max_length=512)]],
    BeforeValidator(_check_metadata_size),
]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class StrictBody(BaseModel):
    """Base class of request bodies: converts no types, but takes `47.0` as an integer, which it is in JSON Schema."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _make_whole(cls, data: Any) -> Any:
        # A field for floats makes a float of the integer again.
        if isinstance(data, dict) and any(isinstance(value, float) for value in data.values()):
            return {name: _whole(value) for name, value in data.items()}
        return data


class Body(StrictBody):
    """Base class of the request bodies of the service's own API: rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MAX_FIELDS:
            raise ValueError(f"has {len(data)} fields; at most {_MAX_FIELDS} are allowed")
        return data
