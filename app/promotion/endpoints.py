"""`POST /v1/tasks/{task_id}/promote` and `PATCH /v1/tasks/{task_id}`."""

from fastapi import APIRouter

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep
from app.db.dependencies import TransactionDep
from app.errors import NotFoundError, PermissionDeniedError, documented
from app.http.fields import Id
from app.promotion import service
from app.promotion.schemas import PromoteInput, TaskChange
from app.tasks.schemas import TaskView
from app.tasks.views import task_view

router = APIRouter(
    prefix="/v1/tasks",
    tags=["tasks"],
    responses=documented([PermissionDeniedError, NotFoundError]),
    route_class=AdmittingRoute,
)


@router.post("/{task_id}/promote", summary="Choose the version that answers")
def promote_version(
    task_id: Id, body: PromoteInput, transaction: TransactionDep, tenant: AdaptingTenantDep
) -> TaskView:
    """Make a version answer the requests that name none; promoting an older one is a roll back.

    It answers until another version is promoted, or, if the task's `promote` is `always`, until a newer one exists.
    """
    with transaction() as session:
        task = service.promote(session, tenant, task_id, body.version)
        session.flush()
        return task_view(session, task)


@router.patch("/{task_id}", summary="Change how a task answers")
def change_task(task_id: Id, body: TaskChange, transaction: TransactionDep, tenant: AdaptingTenantDep) -> TaskView:
    """Change when new versions answer, send a share of the requests to a canary version, or set thresholds.

    The texts of a request decide which version answers it, so a repeated request gets the same one.
    """
    with transaction() as session:
        task = service.change(session, tenant, task_id, body)
        session.flush()
        return task_view(session, task)
