"""Dependencies of the prediction endpoints, and the loaded models, which other nouns depend on too."""

from typing import Annotated

from fastapi import Depends, Request

from app.predictions.models import Models
from app.predictions.service import Predictions


def predictions_of(request: Request) -> Predictions:
    """Return the prediction service of the process.

    It is not a FastAPI dependency: resolving one takes about 20 µs, and this is the busiest path.
    """
    predictions: Predictions = request.app.state.predictions
    return predictions


async def _models(request: Request) -> Models:
    models: Models = request.app.state.models
    return models


ModelsDep = Annotated[Models, Depends(_models)]
