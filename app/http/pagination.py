"""Lists in pages: newest first, each page asked for by where the one before ended."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import NotFoundError
from app.http.fields import Id

Listed = TypeVar("Listed")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = re.compile(r"(?P<id>[^.]+)\.(?P<microseconds>[0-9]{1,17})")


class Page(BaseModel, Generic[Listed]):
    object: Literal["list"] = "list"
    data: list[Listed]
    has_more: bool = Field(description="whether more follow")
    next: str | None = Field(
        default=None,
        description="what to give as `after` for those that follow, even if the last one here is deleted by then; null"
        " where none follow, or where there is no `after`",
    )


After = Annotated[Id | None, Query(description="`next` of the page before, or the id of any item")]
Limit = Annotated[int, Query(ge=1, le=100, description="how many at most")]


def page_of(
    session: Session,
    query: Select[Any],
    columns: Sequence[InstrumentedAttribute[Any]],
    *,
    after: str | None,
    limit: int,
    among: Select[Any] | None = None,
) -> tuple[list[Any], str | None]:
    """The rows of one page, newest first, and where the next one begins, if there is one.

    `query` selects one entity, already restricted to a tenant; `columns` are its (created_at, id), which together are
    unique, so that no row is shown twice or left out while others come and go. `among` is what an id may name where
    that is more than `query` selects: an item that the caller has seen there may have left it since.

    Raises:
        NotFoundError: `after` is neither the id of one of `among` nor what an earlier page gave.
    """
    if after is not None:
        last = _place(session, query if among is None else among, columns, after)
        query = query.where(tuple_(*columns) < tuple_(*last))
    ordered = query.order_by(*(column.desc() for column in columns)).limit(limit + 1)
    rows = list(session.scalars(ordered))
    if len(rows) <= limit:
        return rows, None
    created_at, id_ = (getattr(rows[limit - 1], column.key) for column in columns)
    return rows[:limit], f"{id_}.{(created_at - _EPOCH) // timedelta(microseconds=1)}"


def _place(
    session: Session, among: Select[Any], columns: Sequence[InstrumentedAttribute[Any]], after: str
) -> tuple[datetime, str]:
    """`created_at` and id of the item that was the last one shown."""
    if cursor := _CURSOR.fullmatch(after):
        return _EPOCH + timedelta(microseconds=int(cursor["microseconds"])), cursor["id"]
    last = session.execute(among.with_only_columns(*columns).where(columns[-1] == after)).one_or_none()
    if last is None:
        raise NotFoundError("there is nothing here with the id given in 'after'", code="unknown_id", param="after")
    created_at, id_ = last
    return created_at, id_
