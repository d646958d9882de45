"""`/v1/datasets`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.adaptations import service
from app.adaptations.dependencies import CreationThreadsDep
from app.adaptations.schemas import DatasetInput, FileSources
from app.adaptations.upload import Form, FormRoute, documented_form, in_file, naming_lines, read_body, read_form
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep
from app.datasets.schemas import DatasetCheckView
from app.db.dependencies import OpenTransaction, TransactionDep
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.fairness.fair_pool import FairPool
from app.http.dependencies import SettingsDep
from app.predictions.dependencies import ModelsDep
from app.predictions.models import Models
from app.settings import Settings

router = APIRouter(
    prefix="/v1/datasets",
    tags=["datasets"],
    responses=documented([PermissionDeniedError]),
    route_class=AdmittingRoute,
)


@dataclass(frozen=True, slots=True)
class _Checker:
    """The parts of a request besides its body, which is JSON or a form."""

    settings: Settings
    models: Models
    transaction: OpenTransaction
    tenant: str
    threads: FairPool
    request: Request

    async def in_thread(self, check: Callable[[], DatasetCheckView]) -> DatasetCheckView:
        """Run `check` in the threads for creations, which do the same work."""
        return await self.threads.run(self.tenant, self.request.state.body_bytes, check)

    def check(
        self, body: DatasetInput, source: FileSources | None = None, place_of: Callable[[str], str] = str
    ) -> DatasetCheckView:
        with self.transaction() as session:
            dataset = service.prepare(session, self.settings, self.tenant, body, self.models)
        return DatasetCheckView.of(dataset, [place_of(warning) for warning in dataset.warnings], source)


async def _checker(
    settings: SettingsDep,
    models: ModelsDep,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    threads: CreationThreadsDep,
    request: Request,
) -> _Checker:
    return _Checker(settings, models, transaction, tenant, threads, request)


CheckerDep = Annotated[_Checker, Depends(_checker)]


async def check_file(form: Annotated[Form, Depends(read_form)], checker: CheckerDep) -> DatasetCheckView:
    """Check a dataset from a form; `check_dataset` documents both."""

    def check() -> DatasetCheckView:
        upload = read_body(form, checker.settings, DatasetInput)
        with naming_lines(upload.lines):
            return checker.check(upload.body, upload.source, partial(in_file, lines=upload.lines))

    return await checker.in_thread(check)


# Registered before the route for JSON, which matches any body.
router.add_api_route("/check", check_file, methods=["POST"], include_in_schema=False, route_class_override=FormRoute)


@router.post(
    "/check",
    summary="Check a dataset",
    responses=documented([NotFoundError, ConflictError]),
    openapi_extra=documented_form(DatasetInput),
)
async def check_dataset(body: DatasetInput, checker: CheckerDep) -> DatasetCheckView:
    """Say how a dataset would be read and what is probably wrong with it. Nothing is stored or started."""
    return await checker.in_thread(partial(checker.check, body))
