"""Request and response bodies of the backend, with Label Studio's field names; unknown fields are ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.http.fields import Storable, StrictBody
from app.label_studio.label_config import MAX_CONFIG_CHARS

MAX_TASKS = 1000
LabelConfig = Annotated[Storable, Field(max_length=MAX_CONFIG_CHARS)]


class SetupInput(StrictBody):
    label_config: LabelConfig = Field(alias="schema", description="the project's labeling configuration")


class SetupView(BaseModel):
    model_version: str


class LabelStudioTask(StrictBody):
    id: int | None = None
    data: dict[str, Any] = Field(description="the fields of the task, one of which is the text")


class LabelStudioPredictInput(StrictBody):
    tasks: list[LabelStudioTask] = Field(min_length=1, max_length=MAX_TASKS)
    label_config: LabelConfig = Field(description="the project's labeling configuration")


class RegionView(BaseModel):
    from_name: str
    to_name: str
    type: Literal["choices"] = "choices"
    value: dict[str, list[str]] = Field(examples=[{"choices": ["billing"]}])
    score: float


class PredictedView(BaseModel):
    result: list[RegionView] = Field(description="empty for a task without a text, and for a text without a label")
    score: float = Field(description="the probability of the least certain choice; 0 without one")
    model_version: str


class PredictView(BaseModel):
    results: list[PredictedView] = Field(description="one per task, in the same order")
    skipped: list[str] = Field(description="the tasks that have no text")


class WebhookProject(StrictBody):
    label_config: LabelConfig


class WebhookInput(StrictBody):
    action: Annotated[str, Field(max_length=64)] = Field(examples=["ANNOTATION_CREATED"])
    project: WebhookProject | None = None
    task: dict[str, Any] | None = None
    annotation: dict[str, Any] | None = None


class WebhookView(BaseModel):
    status: Literal["kept", "ignored", "tuning", "waiting"] = Field(
        description="`kept` until enough annotations are there, `ignored`, `tuning` a new version, or `waiting`, as no "
        "version can be tuned on the annotations yet"
    )
    annotations: int = Field(description="annotations that no version is tuned on yet")
    adaptation_id: str | None = Field(description="the adaptation that tunes the new version")
    reason: str | None = Field(description="why it was ignored, or why it is waiting")


class HealthView(BaseModel):
    status: Literal["UP"] = "UP"
    model_class: Literal["ipt"] = "ipt"
