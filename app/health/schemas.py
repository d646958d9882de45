"""Response bodies of the health endpoints."""

from typing import Literal

from pydantic import BaseModel, Field

from app.errors import ErrorBody


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Checks(BaseModel):
    database: Literal["ok", "unavailable"]
    migrations: Literal["ok", "pending", "unsupported", "unknown"] = Field(
        description="`pending`: the database lacks migrations; `unsupported`: it is too new for this release"
    )
    model: Literal["ok", "loading", "failed"] = Field(description="the backbone and its subspace")


class UnanswerableView(BaseModel):
    tasks: int = Field(description="tasks whose subspace this service does not have; 10,000 means this many or more")
    queued_adaptations: int = Field(description="queued adaptations whose subspace no worker has")


class Ready(BaseModel):
    status: Literal["ok"] = "ok"
    checks: Checks
    unanswerable: UnanswerableView


class NotReady(ErrorBody):
    """An error body with the result of each check."""

    status: Literal["unavailable"] = "unavailable"
    checks: Checks
