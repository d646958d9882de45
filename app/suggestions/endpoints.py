"""`POST /v1/tasks/{task_id}/suggest`."""

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import CallerDep, PredictingTenantDep
from app.db.dependencies import TransactionDep
from app.errors import ConflictError, InvalidError, NotFoundError, PermissionDeniedError, documented
from app.http.dependencies import settings_of
from app.http.disconnects import unless_gone
from app.http.fields import Id
from app.http.text_limits import check_text_length
from app.predictions.dependencies import predictions_of
from app.suggestions import service
from app.suggestions.schemas import MAX_INPUTS, SuggestInput, SuggestView

router = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=AdmittingRoute)


@router.post(
    "/{task_id}/suggest",
    summary="Suggest what to label next",
    responses=documented([PermissionDeniedError, NotFoundError, ConflictError]),
)
async def suggest_texts(
    task_id: Id,
    body: SuggestInput,
    tenant: PredictingTenantDep,
    caller: CallerDep,
    transaction: TransactionDep,
    request: Request,
) -> SuggestView:
    """Choose the unlabelled texts that are most useful to label: uncertain ones that differ from each other.

    Needs an encoder. It takes as long as predicting all texts twice.
    """
    if body.inputs is None:
        texts = await run_in_threadpool(service.kept_texts, transaction, caller, task_id)
    else:
        texts = body.inputs
        if len(texts) > MAX_INPUTS:
            raise InvalidError(
                f"at most {MAX_INPUTS:,} texts, got {len(texts):,}: send a sample of them",
                code="too_many_inputs",
                param="inputs",
            )
        for index, text in enumerate(texts):
            check_text_length(settings_of(request), text, f"inputs[{index}]")
    suggested = service.suggest(predictions_of(request), tenant, task_id, texts, body)
    return await unless_gone(request, suggested)
