"""Lists in pages: newest first, each page asked for by the last id of the one before."""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import NotFoundError
from app.fields import Id

Listed = TypeVar("Listed")


class Page(BaseModel, Generic[Listed]):
    object: Literal["list"] = "list"
    data: list[Listed]
    has_more: bool = Field(description="whether more follow; ask for them with `after` set to the last one's id")


After = Annotated[Id | None, Query(description="the id of the last item of the page before")]
Limit = Annotated[int, Query(ge=1, le=100, description="how many at most")]


def page_of(
    session: Session,
    query: Select[Any],
    columns: Sequence[InstrumentedAttribute[Any]],
    *,
    after: str | None,
    limit: int,
) -> tuple[list[Any], bool]:
    """The rows of one page, newest first, and whether more follow.

    `query` selects one entity, already restricted to a tenant; `columns` are its (created_at, id), which together are
    unique, so that no row is shown twice or left out while others come and go.

    Raises:
        NotFoundError: `after` is not among what the query selects.
    """
    if after is not None:
        last = session.execute(query.with_only_columns(*columns).where(columns[-1] == after)).one_or_none()
        if last is None:
            raise NotFoundError("there is nothing here with the id given in 'after'", code="unknown_id", param="after")
        query = query.where(tuple_(*columns) < tuple_(*last))
    ordered = query.order_by(*(column.desc() for column in columns)).limit(limit + 1)
    rows = list(session.scalars(ordered))
    return rows[:limit], len(rows) > limit
