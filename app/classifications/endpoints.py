"""`POST /v1/classify`."""

from fastapi import APIRouter, Request, Response

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.classifications.dependencies import ClassificationsDep
from app.classifications.schemas import ClassifyInput, ClassifyView
from app.errors import PermissionDeniedError, documented
from app.http.dependencies import SettingsDep
from app.http.disconnects import unless_gone
from app.http.text_limits import check_input_count, check_text_length
from app.predictions.responses import TIMES, prediction_views, set_time_headers

router = APIRouter(tags=["predictions"], route_class=AdmittingRoute)


@router.post(
    "/v1/classify",
    summary="Classify by examples",
    responses=documented([PermissionDeniedError]) | TIMES,
    response_model_exclude_unset=True,
)
async def classify(
    body: ClassifyInput,
    settings: SettingsDep,
    classifications: ClassificationsDep,
    tenant: PredictingTenantDep,
    request: Request,
    response: Response,
) -> ClassifyView:
    """Classify texts by the examples of this request. Nothing is tuned or stored.

    The first request with some examples takes a second or two; the same examples again take as long as a prediction. An
    adaptation of the same examples is more accurate, because it also tunes a vector.
    """
    for index, text in enumerate(body.inputs):
        check_text_length(settings, text, f"inputs[{index}]")
    check_input_count(settings, len(body.inputs), "inputs")
    answered, warnings = await unless_gone(request, classifications.classify(tenant, body))
    set_time_headers(response, answered.answer)
    return ClassifyView(predictions=prediction_views(answered, body.top_k, body), warnings=list(warnings))
