"""`/openai/v1/batches`."""

from fastapi import APIRouter, Request

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.db.dependencies import TransactionDep
from app.http.fields import Id
from app.openai.batches import repository, service
from app.openai.batches.runner import BatchRunner
from app.openai.batches.schemas import BatchInput, BatchView
from app.openai.dialect import PREFIX
from app.openai.pages import AfterId, CursorPage, PageLimit, cursor_page

router = APIRouter(prefix=f"{PREFIX}/batches", tags=["openai"], route_class=AdmittingRoute)


@router.post("", summary="Create a batch")
def create_batch(
    body: BatchInput, transaction: TransactionDep, tenant: PredictingTenantDep, request: Request
) -> BatchView:
    """Queue the requests of a file, which are answered while no other request waits, within 24 hours."""
    with transaction() as session:
        view = BatchView.of(service.create(session, tenant, body))
    runner: BatchRunner = request.app.state.batches
    runner.wake()
    return view


@router.get("", summary="List batches")
def list_batches(
    transaction: TransactionDep,
    tenant: PredictingTenantDep,
    after: AfterId = None,
    limit: PageLimit = 20,
) -> CursorPage[BatchView]:
    """List batches, newest first."""
    with transaction() as session:
        return cursor_page(session, repository.of_tenant(tenant), BatchView.of, after=after, limit=limit)


@router.get("/{batch_id}", summary="Look at a batch")
def get_batch(batch_id: Id, transaction: TransactionDep, tenant: PredictingTenantDep) -> BatchView:
    """Return the status and the counts of a batch, and once it has ended the ids of its files."""
    with transaction() as session:
        return BatchView.of(service.get(session, tenant, batch_id))


@router.post("/{batch_id}/cancel", summary="Cancel a batch")
def cancel_batch(batch_id: Id, transaction: TransactionDep, tenant: PredictingTenantDep, request: Request) -> BatchView:
    """Cancel a batch; it ends within seconds and keeps the responses that it has."""
    with transaction() as session:
        view = BatchView.of(service.cancel(session, tenant, batch_id))
    runner: BatchRunner = request.app.state.batches
    runner.wake()
    return view
