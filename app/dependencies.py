"""What endpoints ask for: the process's services, the caller's tenant, and one transaction."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.api_keys import service as api_keys
from app.db.session import transaction
from app.errors import AuthenticationError, BadRequestError
from app.metrics.collector import StateCollector
from app.predictions.service import Predictions
from app.settings import DEFAULT_TENANT, Settings, is_loopback


@dataclass(frozen=True, slots=True)
class Services:
    """All that lives as long as the process."""

    settings: Settings
    engine: Engine
    predictions: Predictions
    state: StateCollector
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when the server has been told to stop: what could go on for ever must end now."""


def services(request: Request) -> Services:
    """The services that the app's lifespan made."""
    made = request.app.state.services
    assert isinstance(made, Services)
    return made


ServicesDep = Annotated[Services, Depends(services)]
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]*:[0-9a-f:.]*)\]|(?P<name>[a-z0-9.-]+))(:[0-9]{0,5})?")
_bearer = HTTPBearer(auto_error=False, description="an API key; none is needed on one's own machine")


async def tenant(
    request: Request, made: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """The tenant who calls.

    Raises:
        AuthenticationError: no key, or one that is not known.
    """
    settings = made.settings
    if settings.open_access:
        _check_own_machine(request)
        return DEFAULT_TENANT
    if credentials is None:
        raise AuthenticationError("send an API key: Authorization: Bearer KEY", code="api_key_missing")
    key = credentials.credentials
    if settings.api_key is not None and _is_operators(settings.api_key, credentials):
        return DEFAULT_TENANT
    owner = await run_in_threadpool(_owner, made.engine, key)
    if owner is None:
        raise AuthenticationError("this API key is not known", code="api_key_unknown")
    return owner


async def metrics_reader(
    request: Request, made: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let in the operator alone, unless the metrics are open: a tenant's key does not open what spans tenants.

    Raises:
        AuthenticationError: somebody else, or there is no operator's key to know one by.
    """
    settings = made.settings
    if settings.open_metrics:
        return
    if settings.open_access:
        _check_own_machine(request)
    elif settings.api_key is None or credentials is None or not _is_operators(settings.api_key, credentials):
        raise AuthenticationError(
            "metrics are for the operator: send IPT_API_KEY (Authorization: Bearer KEY), or set IPT_OPEN_METRICS=true",
            code="operator_key_required",
        )


def _is_operators(key: SecretStr, credentials: HTTPAuthorizationCredentials) -> bool:
    return api_keys.same_key(credentials.credentials, key.get_secret_value())


def _owner(engine: Engine, key: str) -> str | None:
    with transaction(engine) as session:
        return api_keys.tenant_of(session, key)


def _check_own_machine(request: Request) -> None:
    """Without keys, being on this machine is the only proof there is, so nothing may stand in between.

    The settings vouch for the address that `serve` binds, but another server may have been told to bind elsewhere;
    and a web page can point a name of its own at 127.0.0.1, which the `Host` header gives away.
    """
    if request.client is not None and not is_loopback(request.client.host):
        raise AuthenticationError(
            "this service takes callers of its own machine alone; set IPT_API_KEY to open it", code="api_key_missing"
        )
    if not _names_loopback(request.headers.getlist("host")):
        raise BadRequestError(
            "without API keys this service answers to localhost and loopback addresses alone",
            code="unknown_host",
            param="host",
        )


def _names_loopback(hosts: list[str]) -> bool:
    """Whether there is one `Host`, nothing but a loopback name or address and perhaps a port."""
    named = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
    return named is not None and is_loopback(named["address"] or named["name"])


def session(made: ServicesDep) -> Iterator[Session]:
    """One transaction, committed before the response goes out; endpoints never commit."""
    with transaction(made.engine) as opened:
        yield opened


TenantDep = Annotated[str, Depends(tenant)]
SessionDep = Annotated[Session, Depends(session, scope="function")]
