"""The route class of `/v1`: a request is admitted before its body is read."""

import inspect
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.api_keys.dependencies import admission_of, tenant
from app.http.json_body import JsonRequest

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class AdmittingRoute(APIRoute):
    """A route that admits a request first: FastAPI reads and parses the body before it resolves any dependency.

    Raises:
        TypeError: the endpoint takes no tenant, so the scopes that it needs are unknown.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        scopes = _scopes(self.dependant)
        answers = "predict" in scopes
        in_thread = not inspect.iscoroutinefunction(self.endpoint)
        # Of several parameters FastAPI makes one field, which has each of them by name.
        field = self.body_field if len(self.dependant.body_params) == 1 else None

        async def admit_and_handle(request: Request) -> Response:
            admission = admission_of(request)
            await admission.admit(request, scopes)
            foreground = admission.foreground.request() if answers else nullcontext()
            with admission.in_progress(request), foreground:
                thread = admission.threads.use(request.state.caller.tenant_id) if in_thread else nullcontext()
                async with thread:
                    return await handle(JsonRequest(request.scope, request.receive, field))

        return admit_and_handle


def _scopes(dependant: Dependant) -> list[str]:
    """Return the scopes of the route's tenant parameter, at any depth of its dependencies."""
    tenants = _tenants(dependant)
    if not tenants:
        raise TypeError(f"{dependant.path} takes no tenant: give its endpoint a parameter of a TenantDep")
    return [scope for each in tenants for scope in each.own_oauth_scopes or ()]


def _tenants(dependant: Dependant) -> list[Dependant]:
    here = [dependant] if dependant.call is tenant else []
    return here + [each for below in dependant.dependencies for each in _tenants(below)]
