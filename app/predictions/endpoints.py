"""`POST /v1/tasks/{id}/predict` and `POST /v1/predict`."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api_keys.dependencies import PredictingTenantDep
from app.api_keys.routes import AdmittingRoute
from app.errors import ConflictError, InvalidError, NotFoundError, PermissionDeniedError, documented
from app.http.dependencies import settings_of
from app.http.disconnects import unless_gone
from app.http.fields import Id
from app.predictions.batcher import Answer
from app.predictions.dependencies import predictions_of
from app.predictions.lookup import Question
from app.predictions.schemas import PredictInput, PredictionView, PredictManyInput, PredictManyView, PredictView
from app.predictions.service import Answered
from app.settings import Settings

router = APIRouter(tags=["predictions"], route_class=AdmittingRoute)

_TIMES: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "x-queue-time": {"description": "milliseconds until the model began", "schema": {"type": "number"}},
            "x-inference-time": {"description": "milliseconds that the model took", "schema": {"type": "number"}},
        }
    }
}
_RESPONSES = documented([PermissionDeniedError, NotFoundError, ConflictError]) | _TIMES


@router.post(
    "/v1/tasks/{task_id}/predict",
    summary="Predict with one task",
    responses=_RESPONSES,
    response_model_exclude_none=True,
)
async def predict_with_task(
    task_id: Id,
    body: PredictInput,
    tenant: PredictingTenantDep,
    request: Request,
    response: Response,
) -> PredictView:
    """Answer for texts of one task.

    A task answers from the first adaptation that succeeds; before that it is 409. The newest version answers unless
    `version` names another.
    """
    settings = settings_of(request)
    for index, text in enumerate(body.inputs):
        check_length(settings, text, f"inputs[{index}]")
    check_count(settings, len(body.inputs), "inputs")
    questions = [Question(task_id, body.version, text, "task_id") for text in body.inputs]
    answered = await unless_gone(request, predictions_of(request).ask(tenant, questions))
    _report_times(response, answered.answer)
    return PredictView(task_id=task_id, task_version=answered.keys[0][1], predictions=_views(answered))


@router.post("/v1/predict", summary="Predict with many tasks", responses=_RESPONSES, response_model_exclude_none=True)
async def predict_with_many_tasks(
    body: PredictManyInput, tenant: PredictingTenantDep, request: Request, response: Response
) -> PredictManyView:
    """Answer for texts of any tasks, in one batch: 64 texts of 64 tasks cost about as much as 64 texts of one."""
    settings = settings_of(request)
    check_count(settings, len(body.requests), "requests")
    for index, one in enumerate(body.requests):
        check_length(settings, one.input, f"requests[{index}].input")
    questions = [
        Question(one.task_id, None, one.input, f"requests[{index}].task_id") for index, one in enumerate(body.requests)
    ]
    answered = await unless_gone(request, predictions_of(request).ask(tenant, questions))
    _report_times(response, answered.answer)
    return PredictManyView(predictions=_views(answered))


def check_count(settings: Settings, count: int, param: str) -> None:
    """Refuse more texts in a request than the settings allow."""
    if count > settings.max_predict_inputs:
        raise InvalidError(f"at most {settings.max_predict_inputs} at a time", code="too_many_inputs", param=param)


def check_length(settings: Settings, text: str, param: str) -> None:
    """Refuse a longer text than the settings allow."""
    if len(text) > settings.max_text_chars:
        raise InvalidError(
            f"at most {settings.max_text_chars} characters, got {len(text)}", code="text_too_long", param=param
        )


def _report_times(response: Response, answer: Answer) -> None:
    response.headers["x-queue-time"] = f"{1000 * answer.queue_seconds:.2f}"
    response.headers["x-inference-time"] = f"{1000 * answer.inference_seconds:.2f}"


def _views(answered: Answered) -> list[PredictionView]:
    predictions = zip(answered.answer.predictions, answered.truncated, strict=True)
    return [PredictionView.of(prediction, truncated=truncated) for prediction, truncated in predictions]
