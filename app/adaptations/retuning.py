"""`POST /v1/tasks/{task_id}/retune`: tune a task again, from its stored examples, as a further version."""

from functools import partial

from fastapi import APIRouter, Response

from app.adaptations import service
from app.adaptations.creation import CREATED, CreationDep, created
from app.adaptations.schemas import AdaptationView
from app.api_keys.admitting_route import AdmittingRoute
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.http.fields import Id

router = APIRouter(
    prefix="/v1/tasks",
    tags=["tasks"],
    responses=documented([PermissionDeniedError]),
    route_class=AdmittingRoute,
)


@router.post(
    "/{task_id}/retune",
    status_code=202,
    summary="Tune a task again",
    responses=documented([NotFoundError, ConflictError]) | CREATED,
)
async def retune_task(task_id: Id, creation: CreationDep, response: Response) -> AdaptationView:
    """Queue the tuning of the newest version's examples in the service's current subspace, as a further version.

    After an upgrade that brings another default subspace, a task is answered in its old one until it is tuned again.
    """
    return created(await creation.run(partial(service.retune, task_id=task_id)), response)
