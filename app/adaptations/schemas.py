"""Adaptations on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from app.db.models import Adaptation, AdaptationEvent, Kind, State
from app.errors import ErrorDetail
from app.http.fields import Body, Id, Listed, Metadata, Name, Storable, Text
from ipt.tuning.job import BATCH_SIZE, LARGEST_LEARNING_RATE, RESTARTS, SEED, STEPS


class ExampleInput(Body):
    input: Text = Field(examples=["I was charged twice this month"])
    output: Text = Field(description="the label, or the text, wanted for this input", examples=["billing"])


class HyperparametersInput(Body):
    """What is left out takes the service's default, and the answer says which that is."""

    steps: Annotated[int, Field(ge=1, le=STEPS.largest)] | None = Field(
        default=None, description="tuning steps at most; it ends earlier when the held-back examples say so"
    )
    learning_rate: Annotated[float, Field(gt=0, le=LARGEST_LEARNING_RATE)] | None = None
    batch_size: Annotated[int, Field(ge=BATCH_SIZE.smallest, le=BATCH_SIZE.largest)] | None = Field(
        default=None, description="examples in a step"
    )
    restarts: Annotated[int, Field(ge=RESTARTS.smallest, le=RESTARTS.largest)] | None = Field(
        default=None, description="runs from different starting points, of which the best one is kept"
    )
    seed: Annotated[int, Field(ge=SEED.smallest, le=SEED.largest)] | Literal["auto"] | None = Field(
        default=None, description="the same seed and data give the same vector; 'auto' draws one", examples=[0, "auto"]
    )


class AdaptationInput(Body):
    """A few-shot dataset to tune a task on: a new one (`name`), or a further version of one that exists (`task_id`)."""

    name: Name | None = Field(
        default=None, description="a label for the new task; several tasks may have the same", examples=["tickets"]
    )
    task_id: Id | None = Field(default=None, description="the task to make a further version of, in place of `name`")
    examples: Listed[ExampleInput] = Field(
        min_length=1,
        description="about 16 a label are enough; for classification, at least 2 of each",
        examples=[
            [
                {"input": "I was charged twice this month", "output": "billing"},
                {"input": "My card was declined but the money is gone", "output": "billing"},
                {"input": "The export button does nothing", "output": "bug"},
                {"input": "The page stays blank after the update", "output": "bug"},
            ]
        ],
    )
    validation_examples: Listed[ExampleInput] | None = Field(
        default=None, description="examples to measure on; without them, some of `examples` are held back"
    )
    kind: Kind | None = Field(default=None, description="inferred from the outputs when left out")
    subspace: Storable | None = Field(
        default=None, max_length=128, description="the id of the subspace to tune in; the worker's own without it"
    )
    hyperparameters: HyperparametersInput = Field(default_factory=HyperparametersInput)
    metadata: Metadata = Field(
        default_factory=dict, description="texts of your own, kept and given back", examples=[{"source": "zendesk"}]
    )

    @model_validator(mode="after")
    def _one_task(self) -> "AdaptationInput":
        if (self.name is None) == (self.task_id is None):
            raise ValueError("needs either name, for a new task, or task_id, for a further version of one")
        return self


class Progress(BaseModel):
    step: int = Field(description="steps done")
    steps: int = Field(description="steps there will be at most")


class AdaptationView(BaseModel):
    id: str = Field(examples=["adp_8d3k5m1p9r7t2v4x6z0b1c3f"])
    object: Literal["adaptation"] = "adaptation"
    state: State
    task_id: str = Field(description="the task to predict with, once this has succeeded")
    task_version: int = Field(description="the version of the task that this run makes")
    subspace_id: str | None = Field(description="null until a worker takes it up, when none was asked for")
    kind: Kind
    hyperparameters: dict[str, Any] = Field(description="all of them, defaults included")
    metadata: dict[str, str]
    cancel_requested: bool
    attempt: int = Field(description="how many times a worker has taken it up")
    progress: Progress
    metrics: dict[str, Any] | None = Field(
        description="how well it answers on held-back examples, beside the zero vector and a plain baseline"
    )
    warnings: list[str] = Field(description="what is odd about the examples, or about how well it answers")
    error: ErrorDetail | None = Field(description="why it failed")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Adaptation) -> "AdaptationView":
        return cls(
            id=row.id,
            state=row.state,
            task_id=row.task_id,
            task_version=row.task_version,
            subspace_id=row.subspace_id,
            kind=row.kind,
            hyperparameters=row.hyperparameters,
            metadata=row.metadata_,
            cancel_requested=row.cancel_requested,
            attempt=row.attempt,
            progress=Progress(step=row.step, steps=row.steps),
            metrics=row.metrics,
            warnings=row.warnings,
            error=None if row.error is None else ErrorDetail(**row.error),
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )


class EventView(BaseModel):
    object: Literal["event"] = "event"
    seq: int = Field(description="counts from 1, without gaps")
    type: str = Field(examples=["queued", "running", "progress", "succeeded"])
    data: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: AdaptationEvent) -> "EventView":
        return cls(seq=row.seq, type=row.type, data=row.data, created_at=row.created_at)
