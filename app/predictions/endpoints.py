"""`POST /v1/tasks/{id}/predict` and `POST /v1/predict`."""

from fastapi import APIRouter, Request, Response

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.http.dependencies import settings_of
from app.http.disconnects import unless_gone
from app.http.fields import Id
from app.http.text_limits import check_input_count, check_text_length
from app.predictions.dependencies import predictions_of
from app.predictions.responses import TIMES, prediction_views, set_time_headers
from app.predictions.schemas import (
    PredictInput,
    PredictManyInput,
    PredictManyView,
    PredictView,
    VersionedPredictionView,
)
from app.predictions.task_lookup import Question

router = APIRouter(tags=["predictions"], route_class=AdmittingRoute)

_RESPONSES = documented([PermissionDeniedError, NotFoundError, ConflictError]) | TIMES


@router.post(
    "/v1/tasks/{task_id}/predict",
    summary="Predict with one task",
    responses=_RESPONSES,
    response_model_exclude_unset=True,
)
async def predict_with_task(
    task_id: Id,
    body: PredictInput,
    tenant: PredictingTenantDep,
    request: Request,
    response: Response,
) -> PredictView:
    """Answer texts with one task.

    Returns 409 until the first adaptation of the task has succeeded. The task's `version` answers unless the request
    names another one. If the task has a canary, all texts of a request are answered by the same version.
    """
    settings = settings_of(request)
    for index, text in enumerate(body.inputs):
        check_text_length(settings, text, f"inputs[{index}]")
    check_input_count(settings, len(body.inputs), "inputs")
    questions = [Question(task_id, body.version, text, "task_id") for text in body.inputs]
    answered = await unless_gone(request, predictions_of(request).ask(tenant, questions, body.top_k))
    set_time_headers(response, answered.answer)
    return PredictView(
        task_id=task_id, task_version=answered.keys[0][1], predictions=prediction_views(answered, body.top_k, body)
    )


@router.post("/v1/predict", summary="Predict with many tasks", responses=_RESPONSES, response_model_exclude_unset=True)
async def predict_with_many_tasks(
    body: PredictManyInput, tenant: PredictingTenantDep, request: Request, response: Response
) -> PredictManyView:
    """Answer texts with any number of tasks in one batch: 64 texts for 64 tasks cost about as much as for one task."""
    settings = settings_of(request)
    check_input_count(settings, len(body.requests), "requests")
    questions = []
    for index, entry in enumerate(body.requests):
        check_text_length(settings, entry.input, f"requests[{index}].input")
        questions.append(Question(entry.task_id, entry.version, entry.input, f"requests[{index}].task_id"))
    answered = await unless_gone(request, predictions_of(request).ask(tenant, questions, body.top_k))
    set_time_headers(response, answered.answer)
    views = zip(prediction_views(answered, body.top_k, body), answered.keys, strict=True)
    return PredictManyView(
        predictions=[
            VersionedPredictionView(**view.model_dump(exclude_unset=True), version=version)
            for view, (_, version) in views
        ]
    )
