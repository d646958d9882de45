"""What the responses of all routes that predict share: the views of predictions, and headers with their times."""

from typing import Any

from fastapi import Response

from app.errors import ConflictError
from app.predictions.batcher import Answer
from app.predictions.schemas import PredictionView, Thresholds
from app.predictions.service import AnsweredQuestions

TIMES: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "x-queue-time": {"description": "milliseconds in the queue", "schema": {"type": "number"}},
            "x-inference-time": {"description": "milliseconds in the model", "schema": {"type": "number"}},
        }
    }
}
"""The OpenAPI entry of the headers of `set_time_headers`."""


def set_time_headers(response: Response, answer: Answer) -> None:
    """Set the headers with the times of an answer."""
    response.headers["x-queue-time"] = f"{1000 * answer.queue_seconds:.2f}"
    response.headers["x-inference-time"] = f"{1000 * answer.inference_seconds:.2f}"


def prediction_views(
    answered: AnsweredQuestions, top_k: int | None, thresholds: Thresholds | None = None
) -> list[PredictionView]:
    """Return the views of all predictions with their `top_k` highest scores, all if None.

    Raises:
        ConflictError: `thresholds` has a `min_in_scope`, and a version cannot tell which texts belong to no label.
    """
    predictions = answered.answer.predictions
    if thresholds is not None and thresholds.min_in_scope is not None:
        for (_, version), prediction in zip(answered.keys, predictions, strict=True):
            if prediction.in_scope is None:
                raise ConflictError(
                    f"version {version} cannot tell which texts belong to no label: tune the task again with POST "
                    "/v1/tasks/{task_id}/retune, or leave out min_in_scope. Tasks of backbones that write text never "
                    "can",
                    code="scope_not_available",
                    param="min_in_scope",
                )
    return [
        PredictionView.of(prediction, truncated=truncated, top_k=top_k, thresholds=thresholds)
        for prediction, truncated in zip(predictions, answered.truncated, strict=True)
    ]
