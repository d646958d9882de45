"""Pages of lists as OpenAI's client reads them: the next page begins after the id of the last item."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.db.file_models import Batch, File
from app.db.models import Adaptation
from app.db.webhook_models import WebhookEndpoint
from app.http.fields import Id
from app.http.pagination import page_of


class Identified(BaseModel):
    """An item of a list."""

    id: str


Item = TypeVar("Item", bound=Identified)
Row = TypeVar("Row", Adaptation, Batch, File, WebhookEndpoint)

AfterId = Annotated[Id | None, Query(description="the id of the last item of the previous page")]
PageLimit = Annotated[int, Query(ge=1, le=100, description="items per page, at most")]


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


def cursor_page(
    session: Session,
    query: Select[Row],
    view: Callable[[Row], Item],
    *,
    after: str | None,
    limit: int,
    among: Select[Row] | None = None,
    ascending: bool = False,
) -> CursorPage[Item]:
    """Return one page of a tenant's rows, by time of creation.

    Args:
        session: an open transaction.
        query: selects the rows.
        view: makes the response's item of a row.
        after: the id of the last row of the previous page.
        limit: items per page.
        among: the rows that `after` may name, `query` if None.
        ascending: oldest first.

    Raises:
        NotFoundError: no row has the id `after`.
    """
    row_type = query.column_descriptions[0]["entity"]
    columns = (row_type.created_at, row_type.id)
    rows, following = page_of(session, query, columns, after=after, limit=limit, among=among, ascending=ascending)
    return CursorPage.of([view(row) for row in rows], has_more=following is not None)


def seconds(time: datetime) -> int:
    """Return a time as OpenAI's API writes it, in whole seconds since 1970."""
    return int(time.timestamp())
