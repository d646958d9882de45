"""Pages of lists as OpenAI's client reads them: the next page begins after the id of the last item."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from app.http.fields import Id


class Identified(BaseModel):
    """An item of a list."""

    id: str


Item = TypeVar("Item", bound=Identified)

AfterId = Annotated[Id | None, Query(description="the id of the last item of the previous page")]


class CursorPage(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool = Field(description="whether further items follow")

    @classmethod
    def of(cls, items: Sequence[Item], *, has_more: bool) -> "CursorPage[Item]":
        return cls(
            data=list(items),
            first_id=items[0].id if items else None,
            last_id=items[-1].id if items else None,
            has_more=has_more,
        )


def seconds(time: datetime) -> int:
    """Return a time as OpenAI's API writes it, in whole seconds since 1970."""
    return int(time.timestamp())
