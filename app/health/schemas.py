"""Response bodies of the health endpoints."""

from typing import Literal

from pydantic import BaseModel, Field

import ipt
from app.errors import ErrorBody


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Checks(BaseModel):
    database: Literal["ok", "unavailable"]
    migrations: Literal["ok", "pending", "unsupported", "unknown"] = Field(
        description="`pending`: the database lacks migrations; `unsupported`: it is too new for this release"
    )
    model: Literal["ok", "loading", "failed"] = Field(description="the backbones and their subspaces")


class LoadedBackbone(BaseModel):
    id: str
    family: ipt.Family
    subspace_id: str = Field(description="the subspace in which its tasks are tuned by default")

    @classmethod
    def of(cls, predictor: ipt.Predictor) -> "LoadedBackbone":
        backbone = predictor.backbone
        return cls(id=backbone.identity.id, family=backbone.family, subspace_id=predictor.subspace.id)


class UnanswerableView(BaseModel):
    tasks: int = Field(description="tasks whose subspace this service does not have; 10,000 means this many or more")
    queued_adaptations: int = Field(description="queued adaptations whose subspace no worker has")


class Ready(BaseModel):
    status: Literal["ok"] = "ok"
    checks: Checks
    backbones: list[LoadedBackbone]
    unanswerable: UnanswerableView


class NotReady(ErrorBody):
    """An error body with the result of each check."""

    status: Literal["unavailable"] = "unavailable"
    checks: Checks
