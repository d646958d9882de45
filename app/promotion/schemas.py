"""Request bodies about which version of a task answers."""

from typing import Annotated

from pydantic import Field, model_validator

from app.db.models import Promotion
from app.http.fields import Body, VersionNumber

Threshold = Annotated[float, Field(ge=0, le=1)]


class PromoteInput(Body):
    version: VersionNumber = Field(
        description="the version that answers from now on; an older one to roll back", examples=[1]
    )


class CanaryInput(Body):
    version: VersionNumber = Field(examples=[3])
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        description="the share of requests that this version answers", examples=[0.1]
    )


class TaskChange(Body):
    """Fields that are left out stay as they are."""

    promote: Promotion | None = Field(
        default=None,
        description="when a new version answers: `always` at once, `if_better` if it is right more often on the rows "
        "that both have measured, `manual` once it is promoted. A change concerns later versions",
    )
    canary: CanaryInput | None = Field(
        default=None, description="a version that answers a share of the requests that name none; null ends it"
    )
    min_score: Threshold | None = Field(
        default=None, description="the `min_score` of predictions that name none; null for none", examples=[0.5]
    )
    min_in_scope: Threshold | None = Field(
        default=None,
        description="the `min_in_scope` of predictions that name none; null for none. Versions without `in_scope` "
        "answer all texts",
        examples=[0.5],
    )

    @model_validator(mode="after")
    def _some_change(self) -> "TaskChange":
        if self.promote is None and not self.model_fields_set & {"canary", "min_score", "min_in_scope"}:
            raise ValueError("changes nothing: send promote, canary, min_score or min_in_scope")
        return self
