"""What the responses of all routes that predict share: the views of predictions, and headers with their times."""

from typing import Any

from fastapi import Response

from app.predictions.batcher import Answer
from app.predictions.schemas import PredictionView
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


def prediction_views(answered: AnsweredQuestions, top_k: int | None) -> list[PredictionView]:
    """Return the views of all predictions with their `top_k` highest scores, all if None."""
    predictions = zip(answered.answer.predictions, answered.truncated, strict=True)
    return [PredictionView.of(prediction, truncated=truncated, top_k=top_k) for prediction, truncated in predictions]
