"""The routes of `/v1`: who calls is known, and may, before a request's body is read."""

import gc
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.api_keys.dependencies import admit, services, tenant

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class AdmittingRoute(APIRoute):
    """A route that lets a request in first: the framework reads and parses a body before it asks any dependency.

    Raises:
        TypeError: the route takes no tenant, so that nobody could say who may call it.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        scopes = _scopes(self.dependant)

        async def admit_and_handle(request: Request) -> Response:
            await admit(request, scopes)
            return await handle(_JsonRequest(request.scope, request.receive))

        return admit_and_handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body, as far as a list in it can be of use."""
        if not hasattr(self, "_json"):
            settings = services(self).settings
            self._json = parsed(await self.body(), max(settings.max_examples, settings.max_predict_inputs))
        return self._json


def parsed(body: bytes, most: int) -> Any:
    """JSON, of each list no more than is wanted to see that it has more than `most` elements.

    Nobody else is served while a body is parsed and checked, and a hostile one of 16 MB has millions of elements. The
    garbage collector rests meanwhile: it would look through all of them again and again. Parsing lets no other thread
    run, so none misses it.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(body)
        if isinstance(content, dict):
            for value in content.values():
                if isinstance(value, list):
                    del value[most + 1 :]
    finally:
        if collecting:
            gc.enable()
    return content


def _scopes(dependant: Dependant) -> list[str]:
    """What the route's parameter of a tenant names as scopes, wherever among its dependencies that is."""
    found = _tenants(dependant)
    if not found:
        raise TypeError(f"{dependant.path} takes no tenant: give its endpoint a parameter of a TenantDep")
    return [scope for one in found for scope in one.own_oauth_scopes or ()]


def _tenants(dependant: Dependant) -> list[Dependant]:
    own = [dependant] if dependant.call is tenant else []
    return own + [one for each in dependant.dependencies for one in _tenants(each)]
