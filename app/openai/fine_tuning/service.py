"""Create, find, pause and cancel fine-tuning jobs, which are adaptations of the service's own queue."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.adaptations import service as adaptations
from app.adaptations.routing import choose_model
from app.adaptations.schemas import AdaptationInput, DatasetInput
from app.adaptations.service import Requester
from app.db.models import Adaptation
from app.errors import InvalidError, NotFoundError
from app.openai import names
from app.openai.backbone_names import base_model_of
from app.openai.errors import model_not_found
from app.openai.files import service as files
from app.openai.fine_tuning import repository, result_files
from app.openai.fine_tuning.result_files import ResultFile
from app.openai.fine_tuning.schemas import FineTuning, JobInput
from app.openai.messages import ENCODER_INPUT_CHARS
from app.openai.training_data import TrainingData, read_conversations, training_data
from app.predictions.model import Model
from app.validation_messages import explain
from ipt.data.examples import Example, TaskKind, infer_kind

_PLACE = re.compile(r"\b((?:validation_)?examples)\[(\d+)\](?:\.(input|output))?")
_FILE_OF_FIELD = {"examples": "training_file", "validation_examples": "validation_file", "kind": "training_file"}
_DEFAULT_NAME = "fine-tune"
_SEVERAL_LABELS = "The answers are lists, so a text can have several labels."

Lines = Mapping[str, Sequence[int]]
"""The line of each example in its file, by the field of the adaptation."""


def create(session: Session, requester: Requester, body: JobInput) -> Adaptation:
    """Queue the adaptation that a fine-tuning job asks for.

    Raises:
        NotFoundError: the model or a file does not exist.
        InvalidError: no task can be tuned on the files.
        ConflictError: the key was used for another job.
        BusyError: the tenant has too many unfinished adaptations.
        UnavailableError: the model is not loaded.
    """
    tenant_id = requester.tenant_id
    model = _model_of(session, requester, body)
    max_chars = _max_chars(requester, model)
    training = _read(session, tenant_id, body.training_file, "training_file", max_chars, None)
    lines = {"examples": training.lines}
    validation = None
    if body.validation_file is not None:
        with_system = training.with_system
        validation = _read(session, tenant_id, body.validation_file, "validation_file", max_chars, with_system)
        lines["validation_examples"] = validation.lines
    filename = files.get_summary(session, tenant_id, body.training_file, "training_file").filename
    name = body.suffix or names.safe_part(PurePath(filename).stem) or _DEFAULT_NAME
    kind = _kind(model, training)
    with _naming_lines(lines):
        request = AdaptationInput.model_validate(
            {
                "name": name,
                "examples": training.examples,
                "validation_examples": None if validation is None else validation.examples,
                "kind": kind if kind == "multilabel" else None,
                "hyperparameters": body.options.to_own(len(training.examples), kind, body.seed),
                "metadata": body.metadata or {},
                "subspace": model.predictor.subspace.id if len(requester.models.all) > 1 else None,
            }
        )
        adaptation = adaptations.create(session, requester, request, place_of=lambda text: _in_files(text, lines))
    if adaptation.fine_tuning is None:  # not created by an earlier request with the same key
        adaptation.fine_tuning = FineTuning(
            model=base_model_of(model),
            name=name,
            training_file=body.training_file,
            validation_file=body.validation_file,
            examples=len(training.examples),
            with_system=training.with_system,
            notes=[*training.notes, _SEVERAL_LABELS] if kind == "multilabel" else training.notes,
            lines=[] if training.lines == list(range(1, len(training.lines) + 1)) else training.lines,
        ).model_dump()
    return adaptation


def get(session: Session, tenant_id: str, job_id: str, param: str = "fine_tuning_job_id") -> Adaptation:
    """Return one job.

    Raises:
        NotFoundError: the tenant has no such job.
    """
    adaptation_id = names.adaptation_of_job(job_id)
    job = None if adaptation_id is None else repository.get(session, tenant_id, adaptation_id)
    if job is None:
        raise NotFoundError("there is no fine-tuning job with this id", code="fine_tuning_job_not_found", param=param)
    return job


def cancel(session: Session, tenant_id: str, job_id: str) -> Adaptation:
    """Cancel a job.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: the job has succeeded or failed.
    """
    return adaptations.cancel(session, tenant_id, get(session, tenant_id, job_id).id)


def pause(session: Session, tenant_id: str, job_id: str) -> Adaptation:
    """Pause a job.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: the job has ended.
    """
    return adaptations.pause(session, tenant_id, get(session, tenant_id, job_id).id)


def resume(session: Session, tenant_id: str, job_id: str) -> Adaptation:
    """Resume a job; raises as `pause` does."""
    return adaptations.resume(session, tenant_id, get(session, tenant_id, job_id).id)


def result_file(session: Session, tenant_id: str, file_id: str) -> tuple[ResultFile, Adaptation] | None:
    """Return a result file and its job, None if the tenant has no result file with this id."""
    adaptation_id = result_files.adaptation_of(file_id)
    job = None if adaptation_id is None else repository.get(session, tenant_id, adaptation_id)
    if job is None or job.state != "succeeded":
        return None
    return result_files.render(file_id, job, repository.progress_events(session, tenant_id, job.id)), job


def _model_of(session: Session, requester: Requester, body: JobInput) -> Model:
    """Return the model that a job's base model means; a stand-in means the one for the kind of the training file.

    Raises:
        NotFoundError: the base model or the file does not exist.
        InvalidError: no task can be tuned on the file.
        UnavailableError: the models are not loaded.
    """
    models = requester.models.all
    bases = [base_model_of(model) for model in models]
    if body.model in bases:
        return models[bases.index(body.model)]
    if not names.names_backbone(body.model, bases[0]):
        listed = " or ".join(f"'{name}'" for name in bases)
        raise model_not_found(
            body.model, f"fine-tune the base model {listed}; a fine-tuned model cannot be fine-tuned again"
        )
    if len(models) == 1:
        return models[0]
    max_chars = _max_chars(requester, requester.models.for_kind("text2text"))
    training = _read(session, requester.tenant_id, body.training_file, "training_file", max_chars, None)
    with _naming_lines({"examples": training.lines}):
        kind = "multilabel" if training.has_label_lists else None
        dataset = DatasetInput.model_validate({"examples": training.examples, "kind": kind})
        return choose_model(requester.settings, requester.models, dataset, None)


def _kind(model: Model, training: TrainingData) -> TaskKind:
    if model.family == "encoder":
        return "multilabel" if training.has_label_lists else "classification"
    return infer_kind([Example(row["input"], row["output"]) for row in training.examples])


def _max_chars(requester: Requester, model: Model) -> int:
    return ENCODER_INPUT_CHARS if model.family == "encoder" else requester.settings.max_text_chars


def _read(
    session: Session, tenant_id: str, file_id: str, param: str, max_chars: int, with_system: bool | None
) -> TrainingData:
    file = files.get(session, tenant_id, file_id, param)
    if file.purpose != "fine-tune":
        message = f"this file has the purpose {file.purpose!r}: upload it with the purpose 'fine-tune'"
        raise InvalidError(message, code="invalid_training_file", param=param)
    if file.error is not None:
        raise InvalidError(f"this file cannot be used: {file.error}", code="invalid_training_file", param=param)
    return training_data(list(read_conversations(file.content)), max_chars=max_chars, with_system=with_system)


@contextmanager
def _naming_lines(lines: Lines) -> Iterator[None]:
    """Translate errors about an example, such as `examples[3].output`, to file and line."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field, index, part = first["loc"][:3]  # only examples can be wrong: all other fields are valid already
        message = f"line {lines[str(field)][int(index)]}, {part}: {explain(first)}"
        param = _FILE_OF_FIELD[str(field)]
        raise InvalidError(message, code="invalid_training_file", param=param) from None
    except InvalidError as error:
        # A fault of all outputs is named at the first of them.
        of_all = error.param in ("examples", "kind") and error.code in ("invalid_dataset", "kind_not_supported")
        place = _PLACE.fullmatch("examples[0].output" if of_all else error.param or "")
        field = place[1] if place else error.param or ""
        message = _in_files(error.message, lines)
        if place:
            part = f", {place[3]}" if place[3] else ""
            message = f"line {lines[place[1]][int(place[2])]}{part}: {message}"
        raise InvalidError(message, code=error.code, param=_FILE_OF_FIELD.get(field, field) or None) from error


def _in_files(text: str, lines: Lines) -> str:
    """Replace each `examples[3]` in a text with its file and line."""
    return _PLACE.sub(lambda match: f"line {lines[match[1]][int(match[2])]} of the {_FILE_OF_FIELD[match[1]]}", text)
