"""What the responses of all routes that predict share: the views of predictions, and headers with their times."""

from typing import Any

from fastapi import Response

from app.errors import ConflictError
from app.predictions.batcher import Answer
from app.predictions.schemas import PredictionView, ThresholdsInput
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


def prediction_views(answered: AnsweredQuestions, top_k: int | None, asked: ThresholdsInput) -> list[PredictionView]:
    """Return the views of all predictions with their `top_k` highest scores, all if None.

    Raises:
        ConflictError: the request has a `min_in_scope`, and a version cannot tell which texts belong to no label.
    """
    rows = zip(answered.keys, answered.answer.predictions, answered.truncated, answered.thresholds, strict=True)
    views = []
    thresholds = asked.thresholds()
    for (_, version), prediction, truncated, of_task in rows:
        if asked.min_in_scope is not None and prediction.in_scope is None:
            raise _no_scope_error(version)
        over = of_task._replace(**thresholds)
        views.append(PredictionView.of(prediction, truncated=truncated, top_k=top_k, thresholds=over))
    return views


def _no_scope_error(version: int) -> ConflictError:
    return ConflictError(
        f"version {version} cannot tell which texts belong to no label: tune the task again with POST "
        "/v1/tasks/{task_id}/retune, or leave out min_in_scope. Tasks of several labels and tasks of backbones that "
        "write text never can",
        code="scope_not_available",
        param="min_in_scope",
    )
