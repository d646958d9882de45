"""`/openai/v1/webhook_endpoints`."""

from typing import get_args

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep
from app.db.dependencies import OpenTransaction, TransactionDep
from app.db.webhook_models import WebhookEndpoint
from app.http.dependencies import SettingsDep
from app.http.fields import Id
from app.openai.dialect import PREFIX
from app.openai.pages import AfterId, CursorPage, PageLimit, cursor_page
from app.openai.webhooks import repository, service
from app.openai.webhooks.schemas import (
    DeletedEndpointView,
    EndpointChanges,
    EndpointInput,
    EndpointView,
    EndpointWithSecretView,
    EventType,
    EventTypesView,
    RotationInput,
    SampleInput,
    SampleView,
)
from app.openai.webhooks.sender import Sender

router = APIRouter(prefix=PREFIX, tags=["openai"], route_class=AdmittingRoute)

_ENDPOINTS = "/webhook_endpoints"
_ENDPOINT = f"{_ENDPOINTS}/{{webhook_endpoint_id}}"


@router.get("/webhook_event_types", summary="List the types of webhook events")
def list_event_types(tenant: AdaptingTenantDep) -> EventTypesView:  # noqa: ARG001 - the same for every tenant
    """List the events of which webhooks tell."""
    return EventTypesView(data=list(get_args(EventType)))


@router.post(_ENDPOINTS, summary="Register a webhook")
def create_endpoint(
    body: EndpointInput, transaction: TransactionDep, tenant: AdaptingTenantDep, settings: SettingsDep
) -> EndpointWithSecretView:
    """Send a signed message to a URL whenever a fine-tuning job or a batch ends; only this response has the secret."""
    with transaction() as session:
        return EndpointWithSecretView.of(service.create(session, tenant, body, settings.allowed_webhook_networks))


@router.get(_ENDPOINTS, summary="List webhooks")
def list_endpoints(
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    after: AfterId = None,
    limit: PageLimit = 20,
) -> CursorPage[EndpointView]:
    """List webhook endpoints, newest first."""
    with transaction() as session:
        return cursor_page(session, repository.of_tenant(tenant), EndpointView.of, after=after, limit=limit)


@router.get(_ENDPOINT, summary="Look at a webhook")
def get_endpoint(webhook_endpoint_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> EndpointView:
    """Return a webhook endpoint, and why its last delivery failed."""
    with transaction() as session:
        return EndpointView.of(service.get(session, tenant, webhook_endpoint_id))


@router.post(_ENDPOINT, summary="Change a webhook")
def update_endpoint(
    webhook_endpoint_id: Id,
    body: EndpointChanges,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    settings: SettingsDep,
) -> EndpointView:
    """Change name, URL or events of a webhook endpoint; its secret stays."""
    with transaction() as session:
        allowed = settings.allowed_webhook_networks
        return EndpointView.of(service.update(session, tenant, webhook_endpoint_id, body, allowed))


@router.delete(_ENDPOINT, summary="Delete a webhook")
def delete_endpoint(
    webhook_endpoint_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep
) -> DeletedEndpointView:
    """Delete a webhook endpoint, with the messages that wait for it."""
    with transaction() as session:
        service.remove(session, tenant, webhook_endpoint_id)
    return DeletedEndpointView(id=webhook_endpoint_id)


@router.post(f"{_ENDPOINT}/rotate_secret", summary="Replace the secret of a webhook")
def rotate_secret(
    webhook_endpoint_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep, body: RotationInput | None = None
) -> EndpointWithSecretView:
    """Return a new signing secret, and let the former one expire at once or in 24 hours."""
    keep_former = body is not None and body.keep_old_secret_active_for_24_hours
    with transaction() as session:
        endpoint = service.rotate_secret(session, tenant, webhook_endpoint_id, keep_former=keep_former)
        return EndpointWithSecretView.of(endpoint)


@router.post(f"{_ENDPOINT}/test", summary="Test a webhook")
async def test_endpoint(
    webhook_endpoint_id: Id, body: SampleInput, transaction: TransactionDep, tenant: AdaptingTenantDep, request: Request
) -> SampleView:
    """Send a sample event, and return the status of the receiver's answer; an event that is sent once only."""
    endpoint = await run_in_threadpool(_read, transaction, tenant, webhook_endpoint_id)
    sender: Sender = request.app.state.webhook_sender
    status = await service.send_test(sender, endpoint, body.event_type)
    return SampleView(webhook_endpoint_id=webhook_endpoint_id, event_type=body.event_type, status_code=status)


def _read(transaction: OpenTransaction, tenant: str, endpoint_id: str) -> WebhookEndpoint:
    with transaction() as session:
        return service.get(session, tenant, endpoint_id)
