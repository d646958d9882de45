"""Request and response bodies of adaptations."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

import ipt
from app.db.models import Adaptation, AdaptationEvent, Kind, State
from app.errors import ErrorDetail
from app.http.fields import Body, Id, Listed, Metadata, Name, Storable, Text
from ipt.data.examples import MAX_LABELS, VISIBLE, VISIBLE_TEXT, text_fault
from ipt.data.names import listed
from ipt.tuning.job import BATCH_SIZE, LARGEST_LEARNING_RATE, RESTARTS, SEED, STEPS


class LabelSet(str):
    """An output that came as a list of labels: the text that `ipt.Example.with_labels` stores."""

    __slots__ = ()


def _label_set_or_text(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if not isinstance(value, list):
        return handler(value)
    if len(value) > MAX_LABELS:
        raise ValueError(f"has {len(value)} labels; at most {MAX_LABELS} are allowed")
    for label in value:
        if not isinstance(label, str) or text_fault(label) or not VISIBLE_TEXT.search(label):
            raise ValueError("must be a text or a list of labels, each a text with a visible character")
    return LabelSet(ipt.Example.with_labels("", value).output)


_LABELS = {"type": "array", "maxItems": MAX_LABELS, "items": {"type": "string", "minLength": 1, "pattern": VISIBLE}}
Output = Annotated[
    Text,
    WrapValidator(_label_set_or_text),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "pattern": VISIBLE}, _LABELS]}),
]


class ExampleInput(Body):
    input: Text = Field(examples=["I was charged twice this month"])
    output: Output = Field(
        description="the correct label or text for this input; of a multi-label task the list of its labels, which is "
        "empty for a text of none",
        examples=["billing"],
    )


def _check_outputs(rows: Any) -> Any:
    """Report all examples without an output together; anything else is checked field by field."""
    if not isinstance(rows, list):
        return rows
    blank = [number for number, row in enumerate(rows) if isinstance(row, dict) and _is_blank(row.get("output"))]
    if len(blank) > 1:
        raise ValueError(f"{len(blank)} examples have no output: numbers {listed([str(number) for number in blank])}")
    return rows


def _is_blank(output: Any) -> bool:
    return output is None or (isinstance(output, str) and not VISIBLE_TEXT.search(output))


Examples = Annotated[Listed[ExampleInput], BeforeValidator(_check_outputs)]


class HyperparametersInput(Body):
    """Missing fields take the service's defaults; the response contains all values."""

    steps: Annotated[int, Field(ge=STEPS.smallest, le=STEPS.largest)] | None = Field(
        default=None,
        description="most tuning steps; early stopping on held-back examples may end it sooner; 0 keeps the start",
    )
    learning_rate: Annotated[float, Field(gt=0, le=LARGEST_LEARNING_RATE)] | None = None
    batch_size: Annotated[int, Field(ge=BATCH_SIZE.smallest, le=BATCH_SIZE.largest)] | None = Field(
        default=None, description="examples in a step"
    )
    restarts: Annotated[int, Field(ge=RESTARTS.smallest, le=RESTARTS.largest)] | None = Field(
        default=None, description="runs from different starting points; the best one is kept"
    )
    seed: Annotated[int, Field(ge=SEED.smallest, le=SEED.largest)] | Literal["auto"] | None = Field(
        default=None,
        description="the same seed and data give the same vector; 'auto' draws one",
        examples=[0, "auto"],
    )


class DatasetInput(Body):
    """A few-shot dataset."""

    examples: Examples = Field(
        min_length=1,
        description="about 16 per label are enough; classification needs at least 2 per label",
        examples=[
            [
                {"input": "I was charged twice this month", "output": "billing"},
                {"input": "My card was declined but the money is gone", "output": "billing"},
                {"input": "The export button does nothing", "output": "bug"},
                {"input": "The page stays blank after the update", "output": "bug"},
            ]
        ],
    )
    validation_examples: Examples | None = Field(
        default=None, description="held-back examples to measure on; by default some of `examples` are held back"
    )
    kind: Kind | None = Field(
        default=None, description="inferred from the outputs by default: multilabel if any output is a list"
    )
    task_id: Id | None = Field(default=None, description="the task to create a new version of, instead of `name`")
    extend: bool = Field(
        default=False, description="with `task_id`: also tune on the examples of the task's newest version"
    )


class AdaptationInput(DatasetInput):
    """A few-shot dataset for a new task (`name`), or for a new version of an existing task (`task_id`)."""

    name: Name | None = Field(
        default=None, description="the name of the new task; names need not be unique", examples=["tickets"]
    )
    subspace: Storable | None = Field(
        default=None,
        max_length=128,
        description="the id of the subspace to tune in; by default that of the service's backbone for this kind",
    )
    hyperparameters: HyperparametersInput = Field(default_factory=HyperparametersInput)
    metadata: Metadata = Field(
        default_factory=dict, description="your own texts, stored and returned", examples=[{"source": "zendesk"}]
    )

    @model_validator(mode="after")
    def _one_task(self) -> "AdaptationInput":
        if (self.name is None) == (self.task_id is None):
            raise ValueError("needs either name, for a new task, or task_id, for a new version of a task")
        return self


class Progress(BaseModel):
    step: int = Field(description="steps completed")
    steps: int = Field(description="most steps of the run")


FileSources = dict[str, dict[str, Any]]
"""By the part of the form, how its file was read: format, encoding, delimiter, columns, rows and skipped rows."""


class AdaptationView(BaseModel):
    id: str = Field(examples=["adp_8d3k5m1p9r7t2v4x6z0b1c3f"])
    object: Literal["adaptation"] = "adaptation"
    state: State
    task_id: str = Field(description="the task, which can predict once this has succeeded")
    task_version: int = Field(description="the version of the task that this run creates")
    subspace_id: str | None = Field(description="null until a worker claims the adaptation, unless requested")
    kind: Kind
    hyperparameters: dict[str, Any] = Field(description="all values, including defaults")
    metadata: dict[str, str]
    cancel_requested: bool
    pause_requested: bool
    attempt: int = Field(description="how many times a worker has claimed it")
    progress: Progress
    metrics: dict[str, Any] | None = Field(
        description="scores on held-back examples, compared with the start of tuning and a plain baseline"
    )
    warnings: list[str] = Field(description="likely problems of the examples or of the scores")
    source: FileSources | None = Field(description="how the files of a form were read; null for a JSON body")
    error: ErrorDetail | None = Field(description="why the adaptation failed")
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
            pause_requested=row.pause_requested,
            attempt=row.attempt,
            progress=Progress(step=row.step, steps=row.steps),
            metrics=row.metrics,
            warnings=row.warnings,
            source=row.source,
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
