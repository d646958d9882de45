"""Cursor pagination: lists are newest first, and a page continues where the previous one ended."""

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

Item = TypeVar("Item")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = re.compile(r"(?P<id>[^.]+)\.(?P<microseconds>[0-9]{1,17})")


class Page(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = Field(description="whether further items follow")
    next: str | None = Field(
        default=None,
        description="the value of `after` for the next page, valid even if the last item is deleted; null"
        " if no further items follow, or if the list takes no `after`",
    )


After = Annotated[Id | None, Query(description="`next` of the previous page, or the id of any item")]
Limit = Annotated[int, Query(ge=1, le=100, description="items per page, at most")]


def page_of(
    session: Session,
    query: Select[Any],
    columns: Sequence[InstrumentedAttribute[Any]],
    *,
    after: str | None,
    limit: int,
    among: Select[Any] | None = None,
    ascending: bool = False,
) -> tuple[list[Any], str | None]:
    """Return the rows of one page, newest first, and the cursor of the next page, or None if there is none.

    Args:
        session: an open transaction.
        query: selects one entity, already restricted to a tenant.
        columns: its (created_at, id), unique together, so that no row is repeated or skipped while others are added or
            deleted.
        after: the cursor of an earlier page, or the id of an item.
        limit: rows per page.
        among: the items that `after` may name, `query` if None. It selects more than `query` if an item can leave the
            list after the caller has seen it there.
        ascending: oldest first.

    Raises:
        NotFoundError: `after` is neither a cursor nor the id of an item in `among`.
    """
    if after is not None:
        position = tuple_(*columns)
        last = tuple_(*_position(session, query if among is None else among, columns, after))
        query = query.where(position > last if ascending else position < last)
    ordered = query.order_by(*(column if ascending else column.desc() for column in columns)).limit(limit + 1)
    rows = list(session.scalars(ordered))
    if len(rows) <= limit:
        return rows, None
    created_at, id_ = (getattr(rows[limit - 1], column.key) for column in columns)
    return rows[:limit], cursor_of(created_at, id_)


def cursor_of(created_at: datetime, id_: str) -> str:
    """Return the cursor of the page that begins behind an item."""
    return f"{id_}.{(created_at - _EPOCH) // timedelta(microseconds=1)}"


def _position(
    session: Session, among: Select[Any], columns: Sequence[InstrumentedAttribute[Any]], after: str
) -> tuple[datetime, str]:
    """Return `created_at` and id of the last item of the previous page."""
    if cursor := _CURSOR.fullmatch(after):
        return _EPOCH + timedelta(microseconds=int(cursor["microseconds"])), cursor["id"]
    last = session.execute(among.with_only_columns(*columns).where(columns[-1] == after)).one_or_none()
    if last is None:
        raise NotFoundError("no item of this list has the id given in 'after'", code="unknown_id", param="after")
    created_at, id_ = last
    return created_at, id_
