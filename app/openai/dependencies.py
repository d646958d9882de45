"""The names of the backbones, which several resources show."""

from typing import Annotated

from fastapi import Depends

from app.openai.backbone_names import BackboneNames
from app.predictions.dependencies import ModelsDep


async def _backbones(models: ModelsDep) -> BackboneNames:
    return BackboneNames(models)


BackbonesDep = Annotated[BackboneNames, Depends(_backbones)]
