"""Request and response bodies of fine-tuning jobs, with OpenAI's field names."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from app.db.models import Adaptation, AdaptationEvent
from app.http.fields import Id, Metadata, Name, Storable, StrictBody
from app.openai import names
from app.openai.fine_tuning import hyperparameters
from app.openai.fine_tuning.hyperparameters import Method, OpenAIHyperparameters, Seed
from app.openai.fine_tuning.result_files import result_file_ids
from app.openai.pages import Identified, seconds

_EXAMPLE = re.compile(r"\bexamples\[([0-9]+)\]")

Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]


class JobInput(StrictBody):
    """Fields that OpenAI's API has besides these are ignored."""

    model: Annotated[Storable, Field(max_length=256)] = Field(
        description="a base model of `/models`; names of OpenAI's models stand for the service's backbone",
        examples=["gpt-4o-mini-2024-07-18"],
    )
    training_file: Id = Field(examples=["file-8d3k5m1p9r7t2v4x6z0b1c3f"])
    validation_file: Id | None = None
    suffix: Annotated[Name, Field(max_length=64)] | None = Field(
        default=None, description="a part of the fine-tuned model's name; by default the training file's name"
    )
    seed: Seed | None = Field(default=None, description="drawn if it is missing")
    method: Method | None = None
    hyperparameters: OpenAIHyperparameters | None = Field(
        default=None, description="instead of those in `method`, as older clients send them"
    )
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _one_set_of_hyperparameters(self) -> "JobInput":
        both = self._of_method, self.hyperparameters
        if None not in both and both[0] != both[1]:
            raise ValueError("has two different sets of hyperparameters: send only those in method.supervised")
        return self

    @property
    def _of_method(self) -> OpenAIHyperparameters | None:
        return None if self.method is None else self.method.supervised.hyperparameters

    @property
    def options(self) -> OpenAIHyperparameters:
        """The hyperparameters, wherever the client sent them."""
        return self._of_method or self.hyperparameters or OpenAIHyperparameters()


class FineTuning(BaseModel):
    """What an adaptation that was created as a fine-tuning job stores besides its own columns."""

    model: str
    name: str
    training_file: str
    validation_file: str | None
    examples: int
    with_system: bool
    notes: list[str]
    lines: list[int] | None = None
    """The line of each example in the training file; empty if each line is one example. Earlier jobs have None."""

    def with_lines(self, text: str) -> str:
        """Return a text that names lines of the training file instead of examples."""
        if self.lines is None:
            return text
        lines = self.lines or range(1, self.examples + 1)
        return _EXAMPLE.sub(lambda match: f"line {lines[int(match[1])]}", text)


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class JobView(Identified):
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: None = None
    status: Status
    model: str
    fine_tuned_model: str | None = Field(description="null until the job has succeeded")
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    hyperparameters: dict[str, int | float]
    method: dict[str, Any]
    seed: int
    trained_tokens: None = Field(default=None, description="always null: tokens are not counted")
    error: JobError | None
    metadata: dict[str, str]
    integrations: list[Any] = Field(default_factory=list)

    @classmethod
    def of(cls, row: Adaptation) -> "JobView":
        own = FineTuning.model_validate(row.fine_tuning)
        numbers = hyperparameters.shown(row.hyperparameters, own.examples)
        succeeded = row.state == "succeeded"
        error = None if row.error is None else JobError(**{key: row.error[key] for key in JobError.model_fields})
        return cls(
            id=names.job_id(row.id),
            created_at=seconds(row.created_at),
            finished_at=None if row.finished_at is None else seconds(row.finished_at),
            # The worker of a running job that is to be cancelled stores no other outcome.
            status="cancelled" if row.cancel_requested else row.state,
            model=own.model,
            fine_tuned_model=model_of(row) if succeeded else None,
            organization_id=row.tenant_id,
            training_file=own.training_file,
            validation_file=own.validation_file,
            result_files=result_file_ids(row.id) if succeeded else [],
            hyperparameters=numbers,
            method={"type": "supervised", "supervised": {"hyperparameters": numbers}},
            seed=row.hyperparameters["seed"],
            error=error,
            metadata=row.metadata_,
        )


def model_of(row: Adaptation) -> str:
    """Return the name of the model that a job creates."""
    own = FineTuning.model_validate(row.fine_tuning)
    return names.fine_tuned_model(own.model, row.tenant_id, own.name, row.task_id)


class JobEventView(Identified):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]

    @classmethod
    def of(cls, job: Adaptation, event: AdaptationEvent) -> "JobEventView":
        level: Literal["info", "warn", "error"] = "info"
        match event.type:
            case "queued":
                notes = FineTuning.model_validate(job.fine_tuning).notes
                message = " ".join([f"Created fine-tuning job: {names.job_id(job.id)}.", *notes])
            case "running":
                message = "Fine-tuning job started"
            case "progress":
                loss = event.data["loss"]
                message = f"Step {event.data['step']}/{event.data['steps']}"
                message += "" if loss is None else f": training loss={loss:.4f}"
            case "requeued":
                level, message = "warn", f"Fine-tuning job is queued again ({event.data['reason']})"
            case "succeeded":
                warnings = map(FineTuning.model_validate(job.fine_tuning).with_lines, event.data["warnings"])
                message = " ".join(["The job has successfully completed.", *warnings])
            case "failed":
                level, message = "error", event.data["error"]["message"]
            case _:
                message = f"Fine-tuning job {event.type}"
        data = event.data
        if event.type == "progress":
            data = {
                "step": data["step"],
                "total_steps": data["steps"],
                "train_loss": data["loss"],
                "valid_loss": data.get("validation_loss"),
            }
        return cls(
            id=f"ftevent-{job.id.removeprefix('adp_')}-{event.seq}",
            created_at=seconds(event.created_at),
            level=level,
            message=message,
            type="metrics" if event.type == "progress" else "message",
            data=data,
        )


class CheckpointView(Identified):
    """The model that a job created; intermediate states are not kept."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def of(cls, row: Adaptation) -> "CheckpointView":
        assert row.finished_at is not None
        metrics = {"step": float(row.step)}
        score = (row.metrics or {}).get("score")
        if isinstance(score, float):
            metrics["full_valid_mean_token_accuracy"] = score
        return cls(
            id=f"ftckpt-{row.id.removeprefix('adp_')}",
            created_at=seconds(row.finished_at),
            fine_tuned_model_checkpoint=model_of(row),
            fine_tuning_job_id=names.job_id(row.id),
            step_number=row.step,
            metrics=metrics,
        )
