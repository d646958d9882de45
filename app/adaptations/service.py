"""Take an adaptation in, and cancel one."""

import dataclasses
import hashlib
import json
import logging
import secrets
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

import ipt
from app.adaptations import repository
from app.adaptations.schemas import AdaptationInput, ExampleInput, HyperparametersInput
from app.db.ids import new_id
from app.db.models import Adaptation, Kind
from app.db.session import after_commit
from app.errors import BusyError, ConflictError, InvalidError, NotFoundError, UnavailableError
from app.http.error_handlers import request_id
from app.queue import lifecycle, workers
from app.settings import Settings
from app.subspaces import repository as subspaces
from app.tasks import repository as tasks
from ipt.errors import DatasetError, IptError
from ipt.tuning.job import SEED

log = logging.getLogger(__name__)

_WORKER_RETRY_SECONDS = 30
_QUEUE_RETRY_SECONDS = 30
_MOST_NAMED = 5
"""Pairs of examples in one warning."""


def create(
    session: Session,
    settings: Settings,
    tenant_id: str,
    body: AdaptationInput,
    idempotency_key: str | None,
    family: ipt.Family | None = None,
    loaded_subspace_id: str | None = None,
    place_of: Callable[[str], str] = str,
) -> tuple[Adaptation, bool]:
    """Queue an adaptation; True when an earlier request with the same key had already made it.

    `family` is that of the backbone, and `loaded_subspace_id` the subspace, where this process knows them yet.
    `place_of` says where the caller finds `examples[3]`.

    Raises:
        InvalidError: a dataset that nothing can be tuned on.
        NotFoundError: a task or subspace that does not exist.
        ConflictError: the key was used for another body.
        BusyError: the tenant has as many that have not ended as one may have.
        UnavailableError: nobody tunes in that subspace.
    """
    content = body.model_dump(mode="json")
    body_hash = _hash(content)
    if idempotency_key is not None:
        earlier = repository.by_idempotency_key(session, tenant_id, idempotency_key)
        if earlier is not None:
            if earlier.body_hash != body_hash:
                raise ConflictError(
                    "this Idempotency-Key was used for another body: take a new key for a new adaptation",
                    code="idempotency_key_reused",
                    param="Idempotency-Key",
                )
            return earlier, True
    kind = _check_dataset(settings, body)
    if body.subspace is not None:
        _check_subspace(session, body.subspace, loaded_subspace_id)
    if kind == "text2text" and family == "encoder":
        raise InvalidError(
            "this service's backbone is an encoder, which classifies but does not write text: outputs must be labels, "
            "with at least two examples of each",
            code="kind_not_supported",
            param="kind",
        )
    if repository.count_open(session, tenant_id) >= settings.max_open_adaptations:
        raise BusyError(
            f"{settings.max_open_adaptations} of your adaptations are queued or running, which is the most there may "
            "be: wait for some to end, or cancel some",
            code="too_many_adaptations",
            retry_after=_QUEUE_RETRY_SECONDS,
        )
    task_id, version = _next_version(session, tenant_id, body)
    hyperparameters = _resolved(body.hyperparameters)
    adaptation = Adaptation(
        id=new_id("adp"),
        tenant_id=tenant_id,
        task_id=task_id,
        task_version=version,
        dataset_id=_keep_dataset(session, tenant_id, content),
        subspace_id=body.subspace,
        kind=kind,
        hyperparameters=hyperparameters,
        metadata_=body.metadata,
        steps=hyperparameters["steps"],
        warnings=_contradictions(body, place_of) if kind == "classification" else [],
        idempotency_key=idempotency_key,
        body_hash=body_hash,
    )
    lifecycle.enqueue(session, adaptation)
    line = "adaptation_created adaptation=%s task=%s request=%s"
    after_commit(session, partial(log.info, line, adaptation.id, task_id, request_id.get()))
    return adaptation, False


def get(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation:
    """One adaptation.

    Raises:
        NotFoundError: the tenant has none of this id.
    """
    adaptation = repository.get(session, tenant_id, adaptation_id)
    if adaptation is None:
        raise _not_found()
    return adaptation


def cancel(session: Session, tenant_id: str, adaptation_id: str) -> Adaptation:
    """Cancel what is queued at once, what runs soon; cancelling again changes nothing.

    Raises:
        NotFoundError: the tenant has none of this id.
        ConflictError: it has succeeded or failed.
    """
    adaptation = lifecycle.request_cancel(session, tenant_id, adaptation_id)
    if adaptation is None:
        raise _not_found()
    if adaptation.state in ("succeeded", "failed"):
        raise ConflictError(f"this adaptation has {adaptation.state} already", code="adaptation_finished")
    return adaptation


def _not_found() -> NotFoundError:
    return NotFoundError("there is no adaptation with this id", code="adaptation_not_found", param="adaptation_id")


def _check_dataset(settings: Settings, body: AdaptationInput) -> Kind:
    fields = {"examples": body.examples, "validation_examples": body.validation_examples or []}
    if len(body.examples) + len(fields["validation_examples"]) > settings.max_examples:
        raise InvalidError(
            f"at most {settings.max_examples} examples altogether", code="too_many_examples", param="examples"
        )
    for name, examples in fields.items():
        for index, example in enumerate(examples):
            for part in ("input", "output"):
                if len(getattr(example, part)) > settings.max_text_chars:
                    raise InvalidError(
                        f"at most {settings.max_text_chars} characters",
                        code="text_too_long",
                        param=f"{name}[{index}].{part}",
                    )
    validation = None if body.validation_examples is None else _core(body.validation_examples)
    try:
        kind = ipt.check_examples(_core(body.examples), validation, body.kind)
    except DatasetError as error:
        # A label that is rare, or unknown, may be another one written differently.
        _check_labels_differ(fields)
        raise InvalidError(error.message, code="invalid_dataset", param=error.param) from error
    if kind == "classification":
        _check_labels_differ(fields)
    labels = {example.output for example in body.examples}
    if kind == "classification" and len(labels) > settings.max_labels:
        raise InvalidError(
            f"at most {settings.max_labels} labels, got {len(labels)}", code="too_many_labels", param="examples"
        )
    return kind


def _check_subspace(session: Session, subspace_id: str, loaded_id: str | None) -> None:
    if not subspaces.exists(session, subspace_id):
        raise NotFoundError(
            "there is no subspace with this id; see GET /v1/subspaces", code="subspace_not_found", param="subspace"
        )
    # The service's own is taken in any case: its workers may be starting just now.
    if subspace_id != loaded_id and not workers.count_serving(session, subspace_id):
        raise UnavailableError(
            "no worker tunes in this subspace now: leave it out for the service's own, or run a worker with it",
            code="subspace_not_served",
            param="subspace",
            retry_after=_WORKER_RETRY_SECONDS,
        )


def _core(examples: list[ExampleInput]) -> list[ipt.Example]:
    return [ipt.Example(example.input, example.output) for example in examples]


def _check_labels_differ(fields: dict[str, list[ExampleInput]]) -> None:
    """Refuse labels that look the same: two labels are hardly ever meant, and nobody could tell their answers apart."""
    first_of: dict[str, tuple[str, str]] = {}
    for name, examples in fields.items():
        for index, example in enumerate(examples):
            seen = unicodedata.normalize("NFC", example.output.strip())
            label, first = first_of.setdefault(seen, (example.output, f"{name}[{index}]"))
            if label != example.output:
                raise InvalidError(
                    f"this label and that of {first} differ only in the white space around them, or in how Unicode "
                    "composes their characters: write both alike",
                    code="labels_alike",
                    param=f"{name}[{index}].output",
                )


def _contradictions(body: AdaptationInput, place_of: Callable[[str], str]) -> list[str]:
    """A warning where a text has two labels: a dataset may be that noisy, but most often one of them is a mistake."""
    first_of: dict[str, tuple[str, str]] = {}
    found = []
    for name, examples in (("examples", body.examples), ("validation_examples", body.validation_examples or [])):
        for index, example in enumerate(examples):
            place = f"{name}[{index}]"
            label, first = first_of.setdefault(example.input.strip(), (example.output, place))
            if label != example.output:
                found.append(f"{place_of(place)} and {place_of(first)}")
    if not found:
        return []
    more = f", and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return [
        f"the same text has different labels in {', '.join(found[:_MOST_NAMED])}{more}: mend them if that is a mistake"
    ]


def _next_version(session: Session, tenant_id: str, body: AdaptationInput) -> tuple[str, int]:
    if body.task_id is None:
        assert body.name is not None
        return tasks.add(session, tenant_id, body.name), 1
    version = tasks.take_next_version(session, tenant_id, body.task_id)
    if version is None:
        raise NotFoundError("there is no task with this id", code="task_not_found", param="task_id")
    return body.task_id, version


def _keep_dataset(session: Session, tenant_id: str, content: dict[str, Any]) -> str:
    examples = {name: content[name] for name in ("examples", "validation_examples")}
    return repository.keep_dataset(session, tenant_id, _hash(examples), **examples)


def _resolved(given: HyperparametersInput) -> dict[str, Any]:
    """All hyperparameters, so that the run is the same whenever, and by whichever release, it is taken up."""
    values = given.model_dump(exclude_none=True)
    if values.get("seed") == "auto":
        values["seed"] = secrets.randbelow(SEED.largest + 1)
    try:
        return dataclasses.asdict(ipt.Hyperparameters(**values))
    except IptError as error:
        raise InvalidError(error.message, code="invalid_value", param=f"hyperparameters.{error.param}") from error


def _hash(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
