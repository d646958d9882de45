"""What endpoints ask for: the process's services, the caller and the caller's tenant."""

import asyncio
import math
import re
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.base import SecurityBase
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.adaptations.event_stream import OpenStreams
from app.api_keys import service as api_keys
from app.api_keys.service import Caller
from app.db.coalescer import Coalescer
from app.db.session import transaction
from app.errors import AuthenticationError, BadRequestError, BusyError, InvalidError, PermissionDeniedError
from app.generations.service import Generations
from app.http.rate_limit import RateLimit
from app.metrics.collector import StateCollector
from app.predictions.service import Predictions
from app.settings import DEFAULT_TENANT, Settings, is_loopback
from app.validation import is_field_name


@dataclass(frozen=True, slots=True)
class Services:
    """All that lives as long as the process."""

    settings: Settings
    engine: Engine
    predictions: Predictions
    generations: Generations
    state: StateCollector
    streams: OpenStreams
    callers: Coalescer[str, Caller | None]
    """Who calls with a key: asked for every request, since a key may be revoked, and for all that wait at once."""
    rate_limit: RateLimit | None = None
    """None where a key may send any number of requests."""
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when the server has been told to stop: what could go on for ever must end now."""

    def transaction(self) -> AbstractContextManager[Session]:
        """One transaction for a request: an endpoint opens it, does its work and leaves it, all in one thread.

        As a dependency it would end in another thread's turn. Requests that hold rows or connections would wait for
        such a turn, behind requests which wait for those rows and connections.
        """
        return transaction(self.engine)


def services(request: Request) -> Services:
    """The services that the app's lifespan made."""
    made = request.app.state.services
    assert isinstance(made, Services)
    return made


async def _services(request: Request) -> Services:
    """The same for endpoints: what is no coroutine would wait for a thread at every request."""
    return services(request)


ServicesDep = Annotated[Services, Depends(_services)]
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]*:[0-9a-f:.]*)\]|(?P<name>[a-z0-9.-]+))(:[0-9]{0,5})?")
_OPERATOR = Caller(DEFAULT_TENANT, api_keys.OPERATOR, frozenset({"admin"}))
_bearer = HTTPBearer(auto_error=False, description="an API key; none is needed on one's own machine")


async def admit(request: Request, scopes: Sequence[str]) -> None:
    """Let a request in, and note who calls, before anything of its body is read.

    Raises:
        AuthenticationError: no key, or one that is not known.
        BusyError: the key has sent more requests than it may.
        PermissionDeniedError: it lacks one of the scopes.
        UnavailableError: the service is stopping.
    """
    made = services(request)
    known = await _caller(request, made)
    if made.rate_limit is not None:
        taken = await run_in_threadpool(made.rate_limit.take, known.key_id)
        # Not those of the response, which an error replaces.
        request.state.headers.update(taken.headers())
        if taken.wait_seconds:
            raise BusyError(
                f"this API key may send {taken.limit} requests a minute",
                code="rate_limited",
                retry_after=math.ceil(taken.wait_seconds),
            )
    for scope in scopes:
        if not known.may(scope):
            raise PermissionDeniedError(
                f"this API key lacks the scope '{scope}': use one that has it", code="scope_missing"
            )
    request.state.caller = known


async def _caller(request: Request, made: Services) -> Caller:
    """Who calls. The key of the settings may do everything, and so may everybody where none is needed."""
    settings = made.settings
    if settings.open_access:
        _check_own_machine(request)
        return _OPERATOR
    credentials = await _bearer(request)
    if credentials is None:
        raise AuthenticationError("send an API key: Authorization: Bearer KEY", code="api_key_missing")
    key = credentials.credentials
    if settings.api_key is not None and _is_operators(settings.api_key, credentials):
        return _OPERATOR
    known = await asyncio.wrap_future(made.callers.ask(key))
    if known is None:
        raise AuthenticationError("this API key is unknown, expired or revoked", code="api_key_unknown")
    return known


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


async def caller(request: Request) -> Caller:
    """Who calls, as `admit` has found out."""
    known = request.state.caller
    assert isinstance(known, Caller)
    return known


CallerDep = Annotated[Caller, Depends(caller)]


class _Tenant(SecurityBase):
    """The tenant who calls; in the API's document, the key. What a route names as `scopes` is what `admit` wants of it.

    One dependency rather than a few: each of them takes part of every request's time.
    """

    def __init__(self) -> None:
        self.model, self.scheme_name = _bearer.model, _bearer.scheme_name

    async def __call__(self, request: Request) -> str:
        return (await caller(request)).tenant_id


tenant = _Tenant()


async def only_known_parameters(request: Request) -> None:
    """Refuse a parameter that the route does not have, which may be one that was misspelt.

    Raises:
        InvalidError: naming it, where it could be a name of ours.
    """
    if not request.query_params:
        return
    documented = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    parameters = documented.get(request.method.lower(), {}).get("parameters", ())
    known = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            there_are = f"there are {', '.join(known)}" if known else "there are none here"
            param = name if is_field_name(name) else None
            raise InvalidError(f"there is no such parameter; {there_are}", code="unknown_parameter", param=param)


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
    # A page of another site may send a form here without asking, as any user of this machine.
    origin = request.headers.get("origin")
    if origin is not None and not _names_loopback([origin.partition("://")[2]]):
        raise BadRequestError(
            "without API keys this service takes nothing from web pages of other hosts",
            code="foreign_origin",
            param="origin",
        )


def _names_loopback(hosts: list[str]) -> bool:
    """Whether there is one `Host`, nothing but a loopback name or address and perhaps a port."""
    named = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
    return named is not None and is_loopback(named["address"] or named["name"])


# Every route takes one of these three, and so says which scope it needs; any key may read tasks and subspaces.
TenantDep = Annotated[str, Security(tenant)]
AdaptingTenantDep = Annotated[str, Security(tenant, scopes=["adapt"])]
PredictingTenantDep = Annotated[str, Security(tenant, scopes=["predict"])]
