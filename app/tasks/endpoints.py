"""`/v1/tasks`."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep, TenantDep
from app.db.dependencies import TransactionDep
from app.db.models import Task
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.http.fields import Id
from app.http.pagination import After, Limit, Page, page_of
from app.tasks import neighbors, repository, service
from app.tasks.schemas import DeletedView, NeighborView, TaskView, VectorView, VersionView
from app.tasks.views import task_view, task_views

router = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=AdmittingRoute)

Version = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="the version; the newest by default")]


@router.get("", summary="List tasks", responses=documented([NotFoundError]))
def list_tasks(
    transaction: TransactionDep, tenant: TenantDep, after: After = None, limit: Limit = 20
) -> Page[TaskView]:
    """List tasks, newest first, including tasks that cannot answer yet."""
    query = repository.of_tenant(tenant)
    with transaction() as session:
        rows, following = page_of(session, query, (Task.created_at, Task.id), after=after, limit=limit)
        views = task_views(session, tenant, rows)
    return Page(data=views, has_more=following is not None, next=following)


@router.get("/{task_id}", summary="Look at a task", responses=documented([NotFoundError]))
def get_task(task_id: Id, transaction: TransactionDep, tenant: TenantDep) -> TaskView:
    """Return a task with its newest versions."""
    with transaction() as session:
        return task_view(session, service.get(session, tenant, task_id))


@router.get("/{task_id}/versions", summary="List a task's versions", responses=documented([NotFoundError]))
def list_versions(
    task_id: Id,
    transaction: TransactionDep,
    tenant: TenantDep,
    after: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="`next` of the previous page, or the number of any version")
    ] = None,
    limit: Limit = 20,
) -> Page[VersionView]:
    """List the versions of a task that can answer, newest first."""
    with transaction() as session:
        service.get(session, tenant, task_id)
        rows = repository.versions_before(session, tenant, task_id, before=after, limit=limit + 1)
    has_more = len(rows) > limit
    following = str(rows[limit - 1].version) if has_more else None
    return Page(data=[VersionView.of(row) for row in rows[:limit]], has_more=has_more, next=following)


@router.delete("/{task_id}", summary="Delete a task", responses=documented([PermissionDeniedError, NotFoundError]))
def delete_task(task_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> DeletedView:
    """Delete a task, its versions, its adaptations, and the datasets that no other adaptation uses."""
    with transaction() as session:
        service.remove(session, tenant, task_id)
    return DeletedView(id=task_id)


@router.get("/{task_id}/vector", summary="Read a task's vector", responses=documented([NotFoundError, ConflictError]))
def get_vector(task_id: Id, transaction: TransactionDep, tenant: TenantDep, version: Version = None) -> VectorView:
    """Return the tuned numbers, which are everything that is specific to the task."""
    with transaction() as session:
        return VectorView.of(service.version(session, tenant, task_id, version))


@router.get("/{task_id}/neighbors", summary="Find similar tasks", responses=documented([NotFoundError, ConflictError]))
def list_neighbors(
    task_id: Id,
    transaction: TransactionDep,
    tenant: TenantDep,
    limit: Annotated[int, Query(ge=1, le=100, description="most tasks to return")] = 10,
) -> Page[NeighborView]:
    """List your other tasks in the same subspace, most similar first."""
    with transaction() as session:
        newest = service.version(session, tenant, task_id, None)
        nearest = neighbors.neighbors(session, tenant, newest, limit + 1)
    views = [
        NeighborView(task_id=task.id, task_version=version, name=task.name, similarity=similarity)
        for task, version, similarity in nearest[:limit]
    ]
    return Page(data=views, has_more=len(nearest) > limit)
