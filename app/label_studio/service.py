"""Answer Label Studio's tasks, and make versions from its annotations.

An annotation is kept in the row of the task until enough are there; so it belongs to the tenant, and is deleted with
the task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

import ipt
from app.adaptations import repository as adaptations
from app.adaptations.service import Requester
from app.db.models import Adaptation, Task
from app.errors import AppError, ConflictError, InvalidError
from app.examples import service as examples
from app.examples.rows import rows_of
from app.examples.schemas import ChangeInput
from app.label_studio.label_config import TextChoices, text_choices
from app.label_studio.schemas import (
    LabelStudioPredictInput,
    PredictedView,
    PredictView,
    RegionView,
    WebhookInput,
    WebhookView,
)
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question
from app.tasks.errors import task_not_found_error

TEXTS_AT_ONCE = 32
MAX_WAITING = 1000
"""Most annotations of a task that wait for a version."""
_SAVED, _DELETED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"), "ANNOTATION_DELETED"
_START = "START_TRAINING"


def version_name(task_id: str, version: int) -> str:
    """Return how Label Studio shows a version."""
    return f"{task_id} version {version}"


async def predict(predictions: Predictions, tenant_id: str, task_id: str, body: LabelStudioPredictInput) -> PredictView:
    """Answer the tasks that have a text, and name the others; raises as `Predictions.ask` does.

    Raises:
        InvalidError: the labeling configuration annotates no text, or no task has one.
    """
    choices = text_choices(body.label_config, "label_config")
    texts = {number: text for number, task in enumerate(body.tasks) if (text := choices.text_of(task.data)) is not None}
    missing = [number for number in range(len(body.tasks)) if number not in texts]
    if not texts:
        raise InvalidError(
            f"no task has a text in data.{choices.field}, which the labeling configuration names",
            code="no_text",
            param=f"tasks[0].data.{choices.field}",
        )
    answers: dict[int, ipt.Prediction] = {}
    numbers, version = list(texts), None
    for start in range(0, len(numbers), TEXTS_AT_ONCE):
        part = numbers[start : start + TEXTS_AT_ONCE]
        questions = [Question(task_id, version, texts[number], "task_id") for number in part]
        answered = await predictions.ask(tenant_id, questions, counted=False)
        version = answered.keys[0][1]
        answers |= zip(part, answered.answer.predictions, strict=True)
    assert version is not None
    named = version_name(task_id, version)
    return PredictView(
        results=[_predicted(choices, answers.get(number), named) for number in range(len(body.tasks))],
        skipped=[
            f"tasks[{number}] (id {body.tasks[number].id}): no text in data.{choices.field}" for number in missing
        ],
    )


@dataclass(frozen=True, slots=True)
class _Annotation:
    id: str
    text: str
    labels: Sequence[str]


def record(session: Session, requester: Requester, every: int, task_id: str, body: WebhookInput) -> WebhookView:
    """Keep an annotation, and queue a version if `every` annotations are kept or training is requested.

    Raises:
        NotFoundError: the tenant has no such task.
        InvalidError: the annotated Label Studio task has no text.
        ConflictError: too many annotations wait.
    """
    # Locks the tenant before the task, in the order in which other requests create versions.
    adaptations.usage(session, requester.tenant_id)
    query = select(Task).where(Task.id == task_id, Task.tenant_id == requester.tenant_id)
    task = session.scalar(query.with_for_update(key_share=True))
    if task is None:
        raise task_not_found_error()
    waiting: dict[str, Any] = dict(task.annotations or {})
    if body.action in _SAVED:
        annotation = _annotation(body)
        if annotation is None:
            return _ignored(waiting, "the annotation is cancelled, or has no choice")
        waiting[annotation.id] = {"input": annotation.text, "labels": list(annotation.labels)}
    elif body.action == _DELETED:
        waiting.pop(str((body.annotation or {}).get("id")), None)
    elif body.action != _START:
        return _ignored(waiting, "this action changes no annotation")
    if len(waiting) > MAX_WAITING:
        raise ConflictError(
            f"{MAX_WAITING:,} annotations wait for a version that cannot be tuned: see `reason` of earlier answers",
            code="too_many_annotations",
        )
    task.annotations = waiting or None
    session.flush()
    if not waiting or (len(waiting) < every and body.action != _START):
        return WebhookView(status="kept", annotations=len(waiting), adaptation_id=None, reason=None)
    try:
        with session.begin_nested():
            adaptation = _tune(session, requester, task_id, list(waiting.values()))
    except AppError as error:
        return WebhookView(status="waiting", annotations=len(waiting), adaptation_id=None, reason=error.message)
    task.annotations = None
    session.flush()
    return WebhookView(status="tuning", annotations=0, adaptation_id=adaptation.id, reason=None)


def _tune(session: Session, requester: Requester, task_id: str, annotated: Sequence[dict[str, Any]]) -> Adaptation:
    """Queue a version with the annotated texts; a text that the task has already gets the new labels."""
    base, dataset = examples.of_version(session, requester.tenant_id, task_id, None)
    outputs: dict[str, Any] = {}
    for each in annotated:  # of two annotations of a text, the later one
        outputs[each["input"]] = each["labels"] if base.kind == "multilabel" else each["labels"][0]
    known = {row.input for row in rows_of(dataset, base.kind)}
    rows = [{"input": text, "output": output} for text, output in outputs.items()]
    change = {
        "version": base.task_version,
        "relabel": [row for row in rows if row["input"] in known],
        "add": [row for row in rows if row["input"] not in known],
    }
    return examples.change(session, requester, task_id, ChangeInput.model_validate(change))


def _annotation(body: WebhookInput) -> _Annotation | None:
    """Return the annotation of a webhook; None if it was cancelled or has no choice.

    Raises:
        InvalidError: its task has no text.
    """
    annotation = body.annotation or {}
    if body.project is None:
        raise InvalidError(
            "the webhook has no project: switch 'Send payload' on", code="invalid_value", param="project.label_config"
        )
    choices = text_choices(body.project.label_config, "project.label_config")
    labels = choices.labels_of(annotation.get("result"))
    if annotation.get("was_cancelled") is True or not labels:
        return None
    text = choices.text_of((body.task or {}).get("data"))
    if text is None:
        raise InvalidError(
            f"the annotated task (id {(body.task or {}).get('id')}) has no text in data.{choices.field}",
            code="no_text",
            param=f"task.data.{choices.field}",
        )
    return _Annotation(str(annotation.get("id")), text, labels)


def _ignored(waiting: dict[str, Any], reason: str) -> WebhookView:
    return WebhookView(status="ignored", annotations=len(waiting), adaptation_id=None, reason=reason)


def _predicted(choices: TextChoices, prediction: ipt.Prediction | None, version: str) -> PredictedView:
    if prediction is None or prediction.scores is None:
        return PredictedView(result=[], score=0.0, model_version=version)
    single = () if prediction.label is None else (prediction.label,)
    labels = single if prediction.labels is None else prediction.labels
    if not labels:
        return PredictedView(result=[], score=0.0, model_version=version)
    score = min(prediction.scores[label] for label in labels)
    region = RegionView(
        from_name=choices.from_name, to_name=choices.to_name, value={"choices": list(labels)}, score=score
    )
    return PredictedView(result=[region], score=score, model_version=version)
