"""Dependencies that say who calls: the caller, the caller's tenant, and the reader of metrics."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials
from fastapi.security.base import SecurityBase

from app.api_keys.admission import Admission, bearer
from app.api_keys.service import Caller


def admission_of(request: Request) -> Admission:
    """Return the admission of the process."""
    admission: Admission = request.app.state.admission
    return admission


async def metrics_reader(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Admit a reader of metrics; raises as `Admission.check_metrics_reader` does."""
    admission_of(request).check_metrics_reader(request, credentials)


async def caller(request: Request) -> Caller:
    """Return the caller whom `Admission.admit` has identified."""
    admitted: Caller = request.state.caller
    return admitted


CallerDep = Annotated[Caller, Depends(caller)]


class _Tenant(SecurityBase):
    """The caller's tenant; in the OpenAPI document, the API key. `admit` requires the scopes that a route names here.

    It is one dependency rather than a chain: each one takes part of every request's time.
    """

    def __init__(self) -> None:
        self.model, self.scheme_name = bearer.model, bearer.scheme_name

    async def __call__(self, request: Request) -> str:
        return (await caller(request)).tenant_id


tenant = _Tenant()

# Every route takes one of these three and so says which scope it needs; any key may read tasks and subspaces.
TenantDep = Annotated[str, Security(tenant)]
AdaptingTenantDep = Annotated[str, Security(tenant, scopes=["adapt"])]
PredictingTenantDep = Annotated[str, Security(tenant, scopes=["predict"])]
