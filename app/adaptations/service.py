"""Create, find and cancel adaptations."""

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

import ipt
from app.adaptations import repository
from app.adaptations.dataset_checks import prepare_dataset
from app.adaptations.extension import (
    check_nothing_lost,
    extended,
    label_change_warnings,
    naming_kept_examples,
)
from app.adaptations.routing import choose_model
from app.adaptations.schemas import AdaptationInput, DatasetInput, FileSources, HyperparametersInput
from app.db.ids import new_id
from app.db.models import FINISHED, Adaptation
from app.db.session import after_commit
from app.errors import BusyError, ConflictError, InvalidError, NotFoundError, UnavailableError
from app.http.error_handlers import request_id
from app.predictions.model import Model
from app.predictions.models import Models
from app.queue import lifecycle, workers
from app.settings import Settings
from app.subspaces import repository as subspaces
from app.tasks import repository as tasks
from app.tasks import service as task_service
from app.tasks.errors import task_not_found_error
from ipt.data.preparation import PreparedDataset
from ipt.tuning.job import SEED
from ipt.tuning.reading_warnings import dataset_warnings

log = logging.getLogger(__name__)

_WORKER_RETRY_SECONDS = 30
_QUEUE_RETRY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Requester:
    """Whose adaptation is created, and the limits that hold for it."""

    tenant_id: str
    settings: Settings
    models: Models
    """The models of this process, which may still be loading."""
    idempotency_key: str | None
    """The caller's key, if any."""


def create(
    session: Session,
    requester: Requester,
    body: AdaptationInput,
    source: FileSources | None = None,
    place_of: Callable[[str], str] = str,
) -> Adaptation:
    """Queue an adaptation, or return the one that an earlier request with the same key created.

    Args:
        session: the request's transaction.
        requester: who asks.
        body: the request.
        source: how its files were read, None if it came as JSON.
        place_of: replaces places such as `examples[3]` in a text by the caller's names for them.

    Raises:
        InvalidError: no task can be tuned on this dataset.
        NotFoundError: the task or the subspace does not exist.
        InvalidError: a quota of the tenant is used up.
        ConflictError: the key was used with another body, or another version was created while this one was prepared
            that extends an earlier one.
        BusyError: the tenant has too many unfinished adaptations.
        UnavailableError: no worker serves the subspace, or several models are not loaded yet.
    """
    content = body.model_dump(mode="json")
    if not body.extend:
        del content["extend"]  # as before the field existed, so that a retry after an upgrade has the same hash
    body_hash = hash_of(content)
    earlier = repeated(session, requester, body_hash)
    if earlier is not None:
        return earlier
    tenant_id, task_id = requester.tenant_id, body.task_id if body.extend else None
    newest = None if task_id is None else repository.newest_version(session, tenant_id, task_id)
    dataset = prepare(session, requester.settings, tenant_id, body, requester.models, body.subspace)
    warnings = [place_of(warning) for warning in dataset.warnings]
    prepared = replace(dataset, warnings=warnings)
    adaptation = queue(session, requester, body, prepared, body_hash=body_hash, source=source)
    if task_id is not None:
        # Taking the version's number locked the task: what another request added before is visible now.
        before = repository.newest_version(session, tenant_id, task_id, before=adaptation.task_version)
        check_nothing_lost(newest, before)
    return adaptation


def repeated(session: Session, requester: Requester, body_hash: str) -> Adaptation | None:
    """Return the adaptation that an earlier request with the caller's key created, if any.

    Raises:
        ConflictError: the key was used with another body.
    """
    if requester.idempotency_key is None:
        return None
    earlier = repository.by_idempotency_key(session, requester.tenant_id, requester.idempotency_key)
    if earlier is not None and earlier.body_hash != body_hash:
        raise ConflictError(
            "this Idempotency-Key was used with another body: send a new key with a new body",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )
    return earlier


def queue(
    session: Session, requester: Requester, body: AdaptationInput, dataset: PreparedDataset, **columns: Any
) -> Adaptation:
    """Queue an adaptation on a dataset that was checked; raises as `create` does.

    `columns` are those of the adaptation that do not follow from the request, at least `body_hash`.
    """
    tenant_id, settings = requester.tenant_id, requester.settings
    if body.subspace is not None:
        _check_subspace(session, body.subspace, requester.models.default_subspace_ids)
    _check_quotas(repository.usage(session, tenant_id), settings)
    task_id, version = _next_version(session, tenant_id, body)
    hyperparameters = _resolve(body.hyperparameters, dataset.kind)
    adaptation = Adaptation(
        id=new_id("adp"),
        tenant_id=tenant_id,
        task_id=task_id,
        task_version=version,
        dataset_id=_keep_dataset(session, tenant_id, dataset),
        subspace_id=body.subspace or _default_subspace(session, requester.models, dataset.kind),
        kind=dataset.kind,
        hyperparameters=hyperparameters,
        metadata_=body.metadata,
        steps=hyperparameters["steps"],
        warnings=dataset.warnings,
        idempotency_key=requester.idempotency_key,
        **columns,
    )
    lifecycle.enqueue(session, adaptation)
    line = "adaptation_created adaptation=%s task=%s request=%s"
    after_commit(session, partial(log.info, line, adaptation.id, task_id, request_id.get()))
    return adaptation


def retune(session: Session, requester: Requester, task_id: str) -> Adaptation:
    """Queue the tuning of the newest version's examples, as a further version; raises as `create` does.

    Raises:
        NotFoundError: the tenant has no such task.
        ConflictError: the task has no version yet.
    """
    version = task_service.version(session, requester.tenant_id, task_id, None)
    dataset, adaptation = repository.dataset_of(session, requester.tenant_id, version.adaptation_id)
    body = AdaptationInput.model_validate(
        {
            "task_id": task_id,
            "examples": dataset.examples,
            "validation_examples": dataset.validation_examples,
            "kind": adaptation.kind,
            "metadata": adaptation.metadata_,
        }
    )
    return create(session, requester, body)


def prepare(
    session: Session,
    settings: Settings,
    tenant_id: str,
    body: DatasetInput,
    models: Models,
    subspace_id: str | None = None,
) -> PreparedDataset:
    """Return the dataset that a task would be tuned on, with all warnings about it.

    Raises:
        InvalidError: no task can be tuned on this dataset.
        NotFoundError: the task does not exist.
        ConflictError: the examples of a task are to be kept that has no version yet.
    """
    extended_body = extended(session, tenant_id, body)
    model = choose_model(settings, models, extended_body, subspace_id)
    with naming_kept_examples(body) as named:
        dataset = prepare_dataset(settings, extended_body, model.family)
        warnings = [*dataset.warnings, *label_change_warnings(session, tenant_id, extended_body, dataset)]
        checked = with_reading_warnings(replace(dataset, warnings=warnings), model, models)
        return replace(checked, warnings=[named(warning) for warning in checked.warnings])


def with_reading_warnings(dataset: PreparedDataset, model: Model, models: Models) -> PreparedDataset:
    """Return the dataset with warnings about how the backbone reads it, once the backbone is loaded."""
    if models.state != "ok":
        return dataset
    predictor = model.predictor
    warnings = dataset_warnings(predictor.backbone, predictor.subspace, dataset, predictor.read)
    return replace(dataset, warnings=[*dataset.warnings, *warnings])


def get(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation:
    """Return one adaptation.

    Raises:
        NotFoundError: the tenant has no such adaptation.
    """
    adaptation = repository.get(session, tenant_id, adaptation_id)
    if adaptation is None:
        raise _not_found()
    return adaptation


def cancel(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation:
    """Cancel a queued adaptation at once, or ask the worker of a running one to stop; idempotent.

    Raises:
        NotFoundError: the tenant has no such adaptation.
        ConflictError: the adaptation has succeeded or failed.
    """
    adaptation = lifecycle.request_cancel(session, tenant_id, adaptation_id)
    if adaptation is None:
        raise _not_found()
    if adaptation.state in ("succeeded", "failed"):
        raise _finished(adaptation.state)
    return adaptation


def pause(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation:
    """Pause a queued adaptation at once, or ask the worker of a running one to do so; idempotent.

    Raises:
        NotFoundError: the tenant has no such adaptation.
        ConflictError: the adaptation has finished.
    """
    return _unfinished(lifecycle.request_pause(session, tenant_id, adaptation_id))


def resume(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation:
    """Queue a paused adaptation again; it continues from its checkpoint. Idempotent; raises as `pause` does."""
    return _unfinished(lifecycle.resume(session, tenant_id, adaptation_id))


def _unfinished(adaptation: Adaptation | None) -> Adaptation:
    if adaptation is None:
        raise _not_found()
    if adaptation.state in FINISHED or adaptation.cancel_requested:
        state = "been cancelled" if adaptation.cancel_requested else adaptation.state
        raise _finished(state)
    return adaptation


def _finished(state: str) -> ConflictError:
    message = f"it has already {state}, and only an unfinished adaptation or fine-tuning job can be changed"
    return ConflictError(message, code="adaptation_finished")


def _not_found() -> NotFoundError:
    return NotFoundError("there is no adaptation with this id", code="adaptation_not_found", param="adaptation_id")


def _check_quotas(usage: repository.Usage, settings: Settings) -> None:
    if usage.open >= settings.max_open_adaptations:
        raise BusyError(
            f"you have {usage.open} unfinished adaptations and fine-tuning jobs, of at most "
            f"{settings.max_open_adaptations}: wait for some to end, or cancel some",
            code="too_many_adaptations",
            retry_after=_QUEUE_RETRY_SECONDS,
        )
    remedy = "delete tasks that you no longer need with DELETE /v1/tasks/{task_id}, which deletes their datasets too"
    if usage.stored >= settings.max_stored_adaptations:
        raise InvalidError(
            f"you have {usage.stored:,} adaptations and fine-tuning jobs, of at most "
            f"{settings.max_stored_adaptations:,}: {remedy}",
            code="quota_exceeded",
        )
    if usage.bytes >= settings.max_stored_bytes:
        raise InvalidError(
            f"your datasets have {usage.bytes:,} bytes, of at most {settings.max_stored_bytes:,}: {remedy}",
            code="quota_exceeded",
        )


def _default_subspace(session: Session, models: Models, kind: ipt.TaskKind) -> str | None:
    """Return the subspace for a kind of task; None in a process with one model, whose workers choose their own."""
    if len(models.all) == 1:
        return None
    subspace = models.for_kind(kind).predictor.subspace
    if not subspaces.is_registered(session, subspace.id):  # the database was not there when it was loaded
        raise UnavailableError(
            "the subspace for this kind of task is not registered yet: a worker registers it when it starts",
            code="subspace_not_registered",
            retry_after=_WORKER_RETRY_SECONDS,
        )
    return subspace.id


def _check_subspace(session: Session, subspace_id: str, own_ids: Collection[str]) -> None:
    if not subspaces.is_registered(session, subspace_id):
        raise NotFoundError(
            "there is no subspace with this id; see GET /v1/subspaces", code="subspace_not_found", param="subspace"
        )
    # This process's own subspaces are always accepted: their workers may be starting just now.
    if subspace_id not in own_ids and not workers.count_serving(session, subspace_id):
        raise UnavailableError(
            "no worker serves this subspace right now: leave it out to use the service's own, or start a worker for it",
            code="subspace_not_served",
            param="subspace",
            retry_after=_WORKER_RETRY_SECONDS,
        )


def _next_version(session: Session, tenant_id: str, body: AdaptationInput) -> tuple[str, int]:
    if body.task_id is None:
        assert body.name is not None
        return tasks.add(session, tenant_id, body.name), 1
    version = tasks.take_next_version(session, tenant_id, body.task_id)
    if version is None:
        raise task_not_found_error()
    return body.task_id, version


def _keep_dataset(session: Session, tenant_id: str, dataset: PreparedDataset) -> str:
    examples = _as_json(dataset.examples)
    validation = None if dataset.validation_examples is None else _as_json(dataset.validation_examples)
    content_hash = hash_of({"examples": examples, "validation_examples": validation})
    return repository.keep_dataset(session, tenant_id, content_hash, examples, validation)


def _as_json(examples: Sequence[ipt.Example]) -> list[dict[str, str]]:
    return [{"input": example.input, "output": example.output} for example in examples]


def _resolve(overrides: HyperparametersInput, kind: ipt.TaskKind) -> dict[str, Any]:
    """Return all hyperparameters, so that the defaults of a later release do not change a queued adaptation."""
    values = overrides.model_dump(exclude_none=True)
    if values.get("seed") == "auto":
        values["seed"] = secrets.randbelow(SEED.largest + 1)
    return asdict(replace(ipt.Hyperparameters.defaults(kind), **values))


def hash_of(content: Any) -> str:
    """Return the SHA-256 of a JSON document."""
    # In pieces: `json.dumps` would hold the interpreter lock for as long as a large dataset takes.
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256()
    for piece in encoder.iterencode(content):
        digest.update(piece.encode())
    return digest.hexdigest()
