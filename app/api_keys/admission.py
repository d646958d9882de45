"""Admission: authenticates a request, counts it against its key's rate limit and checks its scopes."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBearer
from pydantic import SecretStr
from sqlalchemy import Engine

from app.api_keys import service
from app.api_keys.same_machine import check_same_machine
from app.api_keys.service import Caller
from app.db.coalescer import Coalescer
from app.db.session import read_transaction
from app.errors import AuthenticationError, BusyError, PermissionDeniedError
from app.fairness.background import Foreground
from app.fairness.fair_slots import FairSlots
from app.fairness.shared_capacity import SharedCapacity
from app.http.rate_limit import RateLimit
from app.settings import DEFAULT_TENANT, Settings

KEYS_PER_LOOKUP = 256
"""Most API keys that one query looks up."""
THREADS = 32
"""Most endpoints that run in the event loop's threads, which are 40; some are left for everything else."""

BATCH_PATIENCE = 10.0
"""Seconds after which a piece of a batch is answered although requests are in progress."""

_OPERATOR = Caller(DEFAULT_TENANT, service.OPERATOR, frozenset({"admin"}))

_basic = HTTPBasic(auto_error=False)
bearer = HTTPBearer(auto_error=False, description="an API key; none is needed on one's own machine")


class Admission:
    """Admits requests to the endpoints of this process."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """`engine` serves key lookups; every request waits for one, since its key may be revoked at any time."""
        self._settings = settings
        # Requests that arrive together share a query.
        self._callers = Coalescer(partial(_callers_with, engine), name="api-keys", most=KEYS_PER_LOOKUP)
        self._requests = SharedCapacity(settings.max_requests, _too_many_requests)
        self._body_bytes = SharedCapacity(settings.max_bodies_bytes, _too_many_bytes)
        self.threads = FairSlots(THREADS)
        """For endpoints that run in a thread; their tenants take turns."""
        self.foreground = Foreground(BATCH_PATIENCE)
        """Counts the requests for answers in progress; batches are answered between them."""
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

    @contextmanager
    def in_progress(self, request: Request) -> Iterator[None]:
        """Count an admitted request and the bytes of its body, before it is read, until the response begins.

        Sets `request.state.body_bytes`.

        Raises:
            BusyError: the tenant has too many requests in progress, or too large ones.
        """
        tenant_id = request.state.caller.tenant_id
        size = request.state.body_bytes = self._declared_bytes(request)
        with (
            self._requests.use(tenant_id, 1),
            self._body_bytes.use(tenant_id, size) if size else nullcontext(),
        ):
            yield

    def _declared_bytes(self, request: Request) -> int:
        """Return the size of the body, or the largest allowed size if the request does not say."""
        if "transfer-encoding" in request.headers:
            return self._settings.max_body_bytes
        declared = request.headers.get("content-length", "0")
        return int(declared) if declared.isdecimal() else 0  # the server has rejected a length that is not a number

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
        credentials = await bearer(request) or await _password(request)
        if credentials is None:
            raise AuthenticationError("send an API key: Authorization: Bearer KEY", code="api_key_missing")
        if settings.api_key is not None and _is_operators(settings.api_key, credentials):
            return _OPERATOR
        caller = await asyncio.wrap_future(self._callers.ask(credentials.credentials))
        if caller is None:
            raise AuthenticationError("this API key is unknown, expired or revoked", code="api_key_unknown")
        return caller


async def _password(request: Request) -> HTTPAuthorizationCredentials | None:
    """Return the password of basic authentication, for clients such as Label Studio that send no bearer."""
    try:
        basic = await _basic(request)
    except HTTPException:  # damaged
        return None
    return None if basic is None else HTTPAuthorizationCredentials(scheme="Basic", credentials=basic.password)


def _too_many_requests() -> BusyError:
    return BusyError(
        "too many of your requests are in progress: wait for some responses", code="too_many_requests", retry_after=1
    )


def _too_many_bytes() -> BusyError:
    return BusyError(
        "too many bytes of your requests are in progress: wait for some responses, and send `content-length`",
        code="too_many_bytes",
        retry_after=1,
    )


def _callers_with(engine: Engine, keys: Sequence[str]) -> list[Caller | None]:
    with read_transaction(engine) as session:
        return service.callers_with(session, keys)


def _is_operators(key: SecretStr, credentials: HTTPAuthorizationCredentials) -> bool:
    return service.same_key(credentials.credentials, key.get_secret_value())
