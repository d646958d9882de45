"""`/v1/subspaces`."""

from fastapi import APIRouter

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import TenantDep
from app.db.dependencies import TransactionDep
from app.db.models import SubspaceRow
from app.errors import NotFoundError, documented
from app.http.pagination import After, Limit, Page, page_of
from app.predictions.dependencies import ModelsDep
from app.subspaces import repository
from app.subspaces.schemas import SubspaceView

router = APIRouter(prefix="/v1/subspaces", tags=["subspaces"], route_class=AdmittingRoute)


@router.get("", summary="List subspaces", responses=documented([NotFoundError]))
def list_subspaces(
    transaction: TransactionDep, models: ModelsDep, _tenant: TenantDep, after: After = None, limit: Limit = 20
) -> Page[SubspaceView]:
    """List the subspaces that processes of this service have loaded, newest first."""
    columns = (SubspaceRow.created_at, SubspaceRow.id)
    with transaction() as session:
        rows, following = page_of(session, repository.every(), columns, after=after, limit=limit)
    loaded = models.default_subspace_ids
    return Page(data=[SubspaceView.of(row, loaded) for row in rows], has_more=following is not None, next=following)
