"""`GET /v1/tasks/{task_id}/usage`."""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import TenantDep
from app.db.dependencies import TransactionDep
from app.db.models import TaskUsage
from app.errors import NotFoundError, documented
from app.http.fields import Id
from app.http.pagination import Page
from app.tasks import service as tasks
from app.usage import repository
from app.usage.schemas import HourView

router = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=AdmittingRoute)

_YEAR_2100 = 4_102_444_800


@router.get("/{task_id}/usage", summary="What a task was asked", responses=documented([NotFoundError]))
def list_usage(
    task_id: Id,
    transaction: TransactionDep,
    tenant: TenantDep,
    after: Annotated[
        int | None, Query(ge=0, le=_YEAR_2100, description="`next` of the previous page, or any time in Unix seconds")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=168, description="hours per page, at most")] = 24,
) -> Page[HourView]:
    """List how often each version and label answered by the hour, newest first, with mean scores; no text is kept.

    Counts appear within seconds and are kept for 31 days. Generations and embeddings are not counted.
    """
    with transaction() as session:
        tasks.get(session, tenant, task_id)
        before = None if after is None else datetime.fromtimestamp(after, UTC)
        hours = repository.hours_before(session, task_id, before=before, limit=limit + 1)
        has_more = len(hours) > limit
        hours = hours[:limit]
        rows: dict[datetime, list[TaskUsage]] = defaultdict(list)
        for row in repository.of_hours(session, task_id, hours):
            rows[row.hour].append(row)
    following = str(int(hours[-1].timestamp())) if has_more else None
    return Page(data=[HourView.of(hour, rows[hour]) for hour in hours], has_more=has_more, next=following)
