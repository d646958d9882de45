"""The name of the backbone, which several resources show."""

from typing import Annotated

from fastapi import Depends

from app.openai import names
from app.predictions.dependencies import ModelDep


async def _backbone(model: ModelDep) -> str:
    return names.base_model(model.predictor.backbone.identity.id)


BackboneDep = Annotated[str, Depends(_backbone)]
"""The name of the backbone; a request that needs it gets a 503 while the model loads."""
