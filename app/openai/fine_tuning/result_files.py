"""Result files of a job: rendered from its events and metrics on request, so there is nothing to store or expire."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.db.models import Adaptation, AdaptationEvent

_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
_ID = re.compile(r"file-(steps|metrics)-([0-9a-z]{24})")
_FILENAMES = {"steps": "step_metrics.csv", "metrics": "metrics.json"}


@dataclass(frozen=True, slots=True)
class ResultFile:
    id: str
    filename: str
    content: bytes


def result_file_ids(adaptation_id: str) -> list[str]:
    """Return the ids of a job's result files: the metrics of its steps as OpenAI's CSV, and the service's own."""
    return [f"file-{kind}-{adaptation_id.removeprefix('adp_')}" for kind in _FILENAMES]


def adaptation_of(file_id: str) -> str | None:
    """Return the id of the adaptation that a result file belongs to, None for the id of any other file."""
    match = _ID.fullmatch(file_id)
    return f"adp_{match[2]}" if match else None


def render(file_id: str, job: Adaptation, progress: Sequence[AdaptationEvent]) -> ResultFile:
    """Return a result file of a job that has succeeded, given the job's progress events."""
    kind = "steps" if file_id.startswith("file-steps-") else "metrics"
    content = _steps(job, progress) if kind == "steps" else json.dumps(job.metrics, indent=1, ensure_ascii=False)
    return ResultFile(file_id, _FILENAMES[kind], content.encode())


def _steps(job: Adaptation, progress: Sequence[AdaptationEvent]) -> str:
    """Return one row for each step with a loss, and a last row with the accuracy on held-back examples, if any.

    Losses of validations are shown only if they were measured on held-back examples.
    """
    metrics = job.metrics or {}
    losses = {event.data["step"]: event.data["loss"] for event in progress}
    validation_losses: dict[int, float | None] = {}
    if metrics.get("score_source", "none") != "none":
        # Events of earlier releases have no losses of validations.
        validation_losses = {
            event.data["validated_step"]: event.data["validation_loss"]
            for event in progress
            if event.data.get("validated_step") is not None
        }
        if "best_step" in metrics:
            validation_losses[metrics["best_step"]] = metrics.get("loss")
    lines = io.StringIO()
    writer = csv.DictWriter(lines, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for step in sorted({*losses, *validation_losses, job.step}):
        row = {"step": step, "train_loss": losses.get(step), "valid_loss": validation_losses.get(step)}
        writer.writerow(row | {"valid_mean_token_accuracy": metrics.get("score") if step == job.step else None})
    return lines.getvalue()
