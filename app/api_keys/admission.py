"""Admission: authenticates a request, counts it against its key's rate limit and checks its scopes."""

import asyncio
import math
from collections.abc import Sequence
from functools import partial

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from sqlalchemy import Engine

from app.api_keys import service
from app.api_keys.same_machine import check_same_machine
from app.api_keys.service import Caller
from app.db.coalescer import Coalescer
from app.db.session import read_transaction
from app.errors import AuthenticationError, BusyError, PermissionDeniedError
from app.http.rate_limit import RateLimit
from app.settings import DEFAULT_TENANT, Settings

KEYS_PER_LOOKUP = 256
"""Most API keys that one query looks up."""

_OPERATOR = Caller(DEFAULT_TENANT, service.OPERATOR, frozenset({"admin"}))

bearer = HTTPBearer(auto_error=False, description="an API key; none is needed on one's own machine")


class Admission:
    """Admits requests to the endpoints of this process."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """`engine` serves key lookups; every request waits for one, since its key may be revoked at any time."""
        self._settings = settings
        # Requests that arrive together share a query.
        self._callers = Coalescer(partial(_callers_with, engine), name="api-keys", most=KEYS_PER_LOOKUP)
        per_minute = settings.requests_per_minute
        self._rate_limit = None if per_minute is None else RateLimit(per_minute, settings.redis_url)

    async def admit(self, request: Request, scopes: Sequence[str]) -> None:
        """Admit a request and set `request.state.caller`, before any of its body is read.

        Raises:
            AuthenticationError: the request has no key, or an unknown one.
            BusyError: the key has sent more requests than its rate limit allows.
            PermissionDeniedError: the key lacks one of the scopes.
            CoalescerClosedError: the service is stopping.
        """
        caller = await self._caller(request)
        if self._rate_limit is not None:
            decision = await run_in_threadpool(self._rate_limit.take, caller.key_id)
            # Not the headers of the response, which an error replaces.
            request.state.headers.update(decision.headers())
            if decision.wait_seconds:
                raise BusyError(
                    f"this API key may send {decision.limit} requests a minute: wait before the next one",
                    code="rate_limited",
                    retry_after=math.ceil(decision.wait_seconds),
                )
        for scope in scopes:
            if not caller.may(scope):
                raise PermissionDeniedError(
                    f"this API key lacks the scope '{scope}': use one that has it", code="scope_missing"
                )
        request.state.caller = caller

    def check_metrics_reader(self, request: Request, credentials: HTTPAuthorizationCredentials | None) -> None:
        """Reject everyone but the operator, unless metrics are open: metrics span all tenants.

        Raises:
            AuthenticationError: the key is not the operator's, or the service has no operator key.
        """
        settings = self._settings
        if settings.open_metrics:
            return
        if settings.open_access:
            check_same_machine(request)
        elif settings.api_key is None or credentials is None or not _is_operators(settings.api_key, credentials):
            raise AuthenticationError(
                "metrics are for the operator: send IPT_API_KEY (Authorization: Bearer KEY), "
                "or set IPT_OPEN_METRICS=true",
                code="operator_key_required",
            )

    def close(self) -> None:
        """Finish the queued lookups and accept no further ones."""
        self._callers.close()

    async def _caller(self, request: Request) -> Caller:
        """Identify the caller. IPT_API_KEY grants everything, and so does open access."""
        settings = self._settings
        if settings.open_access:
            check_same_machine(request)
            return _OPERATOR
        credentials = await bearer(request)
        if credentials is None:
            raise AuthenticationError("send an API key: Authorization: Bearer KEY", code="api_key_missing")
        if settings.api_key is not None and _is_operators(settings.api_key, credentials):
            return _OPERATOR
        caller = await asyncio.wrap_future(self._callers.ask(credentials.credentials))
        if caller is None:
            raise AuthenticationError("this API key is unknown, expired or revoked", code="api_key_unknown")
        return caller


def _callers_with(engine: Engine, keys: Sequence[str]) -> list[Caller | None]:
    with read_transaction(engine) as session:
        return service.callers_with(session, keys)


def _is_operators(key: SecretStr, credentials: HTTPAuthorizationCredentials) -> bool:
    return service.same_key(credentials.credentials, key.get_secret_value())
