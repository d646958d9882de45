"""Dependencies of the prediction endpoints, and the loaded model, which other nouns depend on too."""

from typing import Annotated

from fastapi import Depends, Request

from app.predictions.model import Model
from app.predictions.service import Predictions


def predictions_of(request: Request) -> Predictions:
    """Return the prediction service of the process.

    It is not a FastAPI dependency: resolving one takes about 20 µs, and this is the busiest path.
    """
    predictions: Predictions = request.app.state.predictions
    return predictions


async def _model(request: Request) -> Model:
    model: Model = request.app.state.model
    return model


ModelDep = Annotated[Model, Depends(_model)]
