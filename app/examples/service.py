"""Read the examples of a task's versions, and queue versions with changed examples."""

from sqlalchemy.orm import Session

import ipt
from app.adaptations import repository as adaptations_repository
from app.adaptations import service as adaptations
from app.adaptations.dataset_checks import prepare_dataset
from app.adaptations.extension import PLACE
from app.adaptations.schemas import AdaptationInput
from app.adaptations.service import Requester
from app.db.models import Adaptation, Dataset
from app.errors import ConflictError, InvalidError, NotFoundError
from app.examples import repository
from app.examples.changes import Change
from app.examples.rows import DatasetRow, rows_of
from app.examples.schemas import ChangeInput, ExampleView, SuspectView
from app.tasks import service as tasks
from ipt.data.preparation import PreparedDataset
from ipt.errors import CheckpointError
from ipt.evaluation.doubtful_labels import doubtful_labels
from ipt.tuning.held_out import HeldOutLogits


def of_version(session: Session, tenant_id: str, task_id: str, version: int | None) -> tuple[Adaptation, Dataset]:
    """Return the adaptation and the dataset of a version, which may still be tuned, the newest if `version` is None.

    Raises:
        NotFoundError: the tenant has no such task, or the task no such version.
    """
    task = tasks.get(session, tenant_id, task_id)
    found = repository.of_version(session, tenant_id, task.id, version)
    if found is None:
        named = "no version" if version is None else f"no version {version}"
        raise NotFoundError(
            f"this task has {named} that is queued, running or succeeded", code="version_not_found", param="version"
        )
    return found


def suspects(session: Session, tenant_id: str, task_id: str, version: int | None) -> list[SuspectView]:
    """Return the examples of a version whose labels are probably wrong, the clearest first.

    Empty for a text-to-text task, and for a version of an earlier release, which keeps no held-out logits.

    Raises:
        NotFoundError: the tenant has no such task, or the task no such version.
        ConflictError: the task has no version yet, or the version's held-out logits are damaged.
    """
    row = tasks.version(session, tenant_id, task_id, version)
    logits = None if row.kind == "text2text" else repository.held_out_logits(session, task_id, row.version)
    if logits is None:
        return []
    _, dataset = of_version(session, tenant_id, task_id, row.version)
    rows = rows_of(dataset, row.kind)
    try:
        held_out = HeldOutLogits.from_bytes(logits, len(rows), len(row.labels))
    except CheckpointError as error:
        raise ConflictError(
            f"what version {row.version} was measured on is damaged: adapt the task again", code="task_damaged"
        ) from error
    dataset_rows = [ipt.Example(each.input, each.output) for each in rows]
    return [
        SuspectView(
            example=ExampleView.of(rows[each.row]),
            likely_label=each.likely_label,
            belongs=each.belongs,
            likely_probability=each.likely_probability,
            given_probability=each.given_probability,
        )
        for each in doubtful_labels(row.labels, dataset_rows, held_out, row.kind)
    ]


def change(session: Session, requester: Requester, task_id: str, body: ChangeInput) -> Adaptation:
    """Queue a version of the task with changed examples, whose tuning starts at the newest version's vector.

    Raises as `adaptations.service.create` does, and:
        NotFoundError: the tenant has no such task; or the version, an example or a label does not exist.
        ConflictError: the version is not the newest one, or a label would be renamed to one that exists.
    """
    tenant_id = requester.tenant_id
    body_hash = adaptations.hash_of({"task_id": task_id, "change": body.model_dump(mode="json")})
    earlier = adaptations.repeated(session, requester, body_hash)
    if earlier is not None:
        return earlier
    base, dataset = of_version(session, tenant_id, task_id, body.version)
    _check_is_newest(adaptations_repository.newest_version(session, tenant_id, task_id), body.version)
    changed = Change(rows_of(dataset, base.kind), body.version, base.kind)
    changed.apply(body)
    whole = AdaptationInput.model_validate(
        {
            "task_id": task_id,
            "examples": [_as_json(row) for row in changed.rows if row.split == "examples"],
            "validation_examples": None
            if dataset.validation_examples is None
            else [_as_json(row) for row in changed.rows if row.split == "validation_examples"],
            "kind": base.kind,
            "metadata": base.metadata_,
            "hyperparameters": body.hyperparameters.model_dump(),
        }
    )
    model = requester.models.for_kind(base.kind)
    checked = _checked(requester, whole, model.family, changed)
    prepared = adaptations.with_reading_warnings(checked, model, requester.models)
    start = tasks.newest_version(session, tenant_id, task_id)
    adaptation = adaptations.queue(
        session,
        requester,
        whole,
        prepared,
        body_hash=body_hash,
        start_version=None if start is None else start.version,
        change=changed.summary,
    )
    # Taking the version's number locked the task: what another request changed before is visible now.
    before = adaptations_repository.newest_version(session, tenant_id, task_id, before=adaptation.task_version)
    _check_is_newest(before, body.version)
    return adaptation


def _checked(
    requester: Requester, whole: AdaptationInput, family: ipt.Family | None, changed: Change
) -> PreparedDataset:
    try:
        return prepare_dataset(requester.settings, whole, family)
    except InvalidError as error:  # whose places are no fields of the request
        message = PLACE.sub(lambda match: changed.name_of(match[1], int(match[2])), error.message)
        raise InvalidError(f"the examples after this change: {message}", code=error.code) from error


def _check_is_newest(newest: int | None, version: int) -> None:
    if newest != version:
        raise ConflictError(
            f"version {version} is not the newest one: get the examples of version {newest}, and send the change for "
            "that version",
            code="version_conflict",
            param="version",
        )


def _as_json(row: DatasetRow) -> dict[str, str]:
    return {"input": row.input, "output": row.output}
