"""Register, change and test webhook endpoints."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy import func
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.webhook_models import WebhookEndpoint
from app.errors import InvalidError, NotFoundError
from app.openai.webhooks import repository
from app.openai.webhooks.addresses import Network, host_may_be_reached
from app.openai.webhooks.messages import body_of, new_secret
from app.openai.webhooks.schemas import EndpointChanges, EndpointInput
from app.openai.webhooks.sender import NotDeliveredError, Sender

MAX_ENDPOINTS = 10
"""Endpoints of one tenant."""
_KEEP_FORMER_SECRET = timedelta(hours=24)
_HIGHEST_PORT = 65_535


def create(session: Session, tenant_id: str, body: EndpointInput, allowed: Sequence[Network]) -> WebhookEndpoint:
    """Register an endpoint with a new secret.

    Raises:
        InvalidError: webhooks may not reach the URL, or the tenant has too many endpoints.
    """
    if repository.count(session, tenant_id) >= MAX_ENDPOINTS:
        message = f"you have {MAX_ENDPOINTS} webhook endpoints, which is the limit: delete one"
        raise InvalidError(message, code="too_many_webhook_endpoints")
    endpoint = WebhookEndpoint(
        id=new_id("wh"),
        tenant_id=tenant_id,
        name=body.name,
        url=_checked(body.url, allowed),
        event_types=list(dict.fromkeys(body.event_types)),
        secret=new_secret(),
    )
    session.add(endpoint)
    return _stored(session, endpoint)


def get(session: Session, tenant_id: str, endpoint_id: str) -> WebhookEndpoint:
    """Return one endpoint.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    return _found(repository.get(session, tenant_id, endpoint_id))


def update(
    session: Session, tenant_id: str, endpoint_id: str, changes: EndpointChanges, allowed: Sequence[Network]
) -> WebhookEndpoint:
    """Change an endpoint; messages that wait are sent to its new URL.

    Raises:
        NotFoundError: the tenant has no such endpoint.
        InvalidError: webhooks may not reach the URL.
    """
    endpoint = _found(repository.get(session, tenant_id, endpoint_id, lock=True))
    values = changes.model_dump(exclude_none=True)
    if changes.url is not None:
        values["url"] = _checked(changes.url, allowed)
    if changes.event_types is not None:
        values["event_types"] = list(dict.fromkeys(changes.event_types))
    different = {name: value for name, value in values.items() if getattr(endpoint, name) != value}
    if not different:
        return endpoint
    for name, value in different.items():
        setattr(endpoint, name, value)
    endpoint.updated_at = func.now()
    return _stored(session, endpoint)


def rotate_secret(session: Session, tenant_id: str, endpoint_id: str, *, keep_former: bool) -> WebhookEndpoint:
    """Give an endpoint a new secret; the former one may stay valid for a day.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    endpoint = _found(repository.get(session, tenant_id, endpoint_id, lock=True))
    endpoint.former_secret = endpoint.secret if keep_former else None
    endpoint.former_secret_until = func.now() + _KEEP_FORMER_SECRET if keep_former else None
    endpoint.secret = new_secret()
    endpoint.updated_at = func.now()
    return _stored(session, endpoint)


def remove(session: Session, tenant_id: str, endpoint_id: str) -> None:
    """Delete an endpoint; messages that wait are not sent.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    if not repository.remove(session, tenant_id, endpoint_id):
        raise _not_found()


async def send_test(sender: Sender, endpoint: WebhookEndpoint, event_type: str) -> int:
    """Send a sample message once, and return the status of the receiver's answer.

    Raises:
        InvalidError: the receiver did not answer.
    """
    event_id = new_id("evt")
    body = body_of(event_id, event_type, "test", datetime.now(UTC))
    try:
        return await sender.send(endpoint.url, event_id, body, [endpoint.secret])
    except NotDeliveredError as error:
        raise InvalidError(str(error), code="webhook_not_delivered", param="url") from error


def _checked(url: str, allowed: Sequence[Network]) -> str:
    """Return a URL as it is sent; its host name is checked again at each connection."""
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode()
    except (httpx.InvalidURL, UnicodeError):
        parsed, host = httpx.URL(), ""
    port_is_valid = parsed.port is None or 0 < parsed.port <= _HIGHEST_PORT
    if (
        parsed.scheme not in ("https", "http")
        or not host
        or not port_is_valid
        or parsed.userinfo
        or parsed.fragment
        or "%" in host
    ):
        message = "is not a URL of a receiver: expected https://HOST/PATH, without user name and fragment"
        raise InvalidError(message, code="invalid_webhook_url", param="url")
    if not host_may_be_reached(host, allowed):
        message = (
            "is a private address: webhooks reach public addresses, and the networks that the operator of the service "
            "lists in IPT_WEBHOOK_PRIVATE_NETWORKS"
        )
        raise InvalidError(message, code="webhook_address_not_allowed", param="url")
    return str(parsed)


def _stored(session: Session, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    session.flush()
    session.refresh(endpoint)
    return endpoint


def _found(endpoint: WebhookEndpoint | None) -> WebhookEndpoint:
    if endpoint is None:
        raise _not_found()
    return endpoint


def _not_found() -> NotFoundError:
    return NotFoundError(
        "there is no webhook endpoint with this id", code="webhook_endpoint_not_found", param="webhook_endpoint_id"
    )
