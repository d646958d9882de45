"""A new version of a task: which labels it changes, and how it keeps the examples of the version before."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy.orm import Session

from app.adaptations import repository
from app.adaptations.schemas import DatasetInput, ExampleInput
from app.errors import ConflictError, InvalidError
from app.tasks import service as tasks
from ipt.data.examples import labels_of_kind
from ipt.data.labels import labels_alike
from ipt.data.names import is_short_name, listed
from ipt.data.preparation import PreparedDataset

PLACE = re.compile(r"\b(examples|validation_examples)\[(\d+)\]")
_Rows = Sequence[Mapping[str, str]]


def extended(session: Session, tenant_id: str, body: DatasetInput) -> DatasetInput:
    """Return the body with the examples of the task's newest version after its own, if it asks for them.

    A text that the body has too keeps only the output of the body.

    Raises:
        InvalidError: the body names no task.
        NotFoundError: the tenant has no such task.
        ConflictError: the task has no version yet, or a newer one is still tuned, whose examples would be lost.
    """
    if not body.extend:
        return body
    if body.task_id is None:
        raise InvalidError(
            "extend keeps the examples of a task's newest version: send its task_id instead of a name",
            code="invalid_value",
            param="extend",
        )
    newest = tasks.version(session, tenant_id, body.task_id, None)
    check_nothing_lost(newest.version, repository.newest_version(session, tenant_id, body.task_id))
    dataset, _ = repository.dataset_of(session, tenant_id, newest.adaptation_id)
    examples = [*body.examples, *_missing_from(body.examples, dataset.examples)]
    validation = body.validation_examples
    if dataset.validation_examples is not None:
        validation = [*(validation or []), *_missing_from(validation or [], dataset.validation_examples)]
    kind = body.kind or ("multilabel" if newest.kind == "multilabel" else None)
    return body.model_copy(update={"examples": examples, "validation_examples": validation, "kind": kind})


def check_nothing_lost(extended_version: int | None, newest: int | None) -> None:
    """Check that the version whose examples are kept is the newest one.

    Raises:
        ConflictError: there is a newer version, whose examples would be lost.
    """
    if newest != extended_version:
        raise ConflictError(
            f"version {newest} is still tuned, and extend would lose its examples: wait for its end, or cancel it",
            code="version_conflict",
            param="extend",
        )


def label_change_warnings(session: Session, tenant_id: str, body: DatasetInput, dataset: PreparedDataset) -> list[str]:
    """Return warnings about labels of the task's newest version that the new version spells otherwise or forgets.

    Raises:
        NotFoundError: the tenant has no such task.
    """
    if body.task_id is None or dataset.kind == "text2text":
        return []
    newest = tasks.newest_version(session, tenant_id, body.task_id)
    if newest is None:
        return []
    labels = labels_of_kind(dataset.examples, dataset.kind)
    known = set(labels)
    missing = [label for label in newest.labels if label not in known]
    alike = {label: next((other for other in labels if labels_alike(label, other)), None) for label in missing}
    respelled = [
        f"{label!r} as {other!r}"
        for label, other in alike.items()
        if other is not None and is_short_name(label) and is_short_name(other)
    ]
    warnings = []
    if respelled:
        warnings.append(
            f"the new version answers labels of version {newest.version} in another spelling: {listed(respelled)}. To "
            "keep the old spelling, send it in the examples"
        )
    lost = [label for label, other in alike.items() if other is None]
    if not lost:
        return warnings
    named = listed([repr(label) for label in lost if is_short_name(label)])
    count = "1 label" if len(lost) == 1 else f"{len(lost)} labels"
    forgotten = f"{count} of version {newest.version}{f': {named}' if named else ''}"
    return [*warnings, f'the new version forgets {forgotten}. To keep the old examples, send "extend": true']


@contextmanager
def naming_kept_examples(body: DatasetInput) -> Iterator[Callable[[str], str]]:
    """Yield a function that replaces the places of kept examples in a text: the caller sent no `examples[12]`.

    Errors within the context are named likewise.
    """
    counts = {"examples": len(body.examples), "validation_examples": len(body.validation_examples or ())}

    def place(match: re.Match[str]) -> str:
        return match[0] if int(match[2]) < counts[match[1]] else "a kept example"

    def named(text: str) -> str:
        return PLACE.sub(place, text) if body.extend else text

    try:
        yield named
    except InvalidError as error:
        param = error.param if error.param is None or named(error.param) == error.param else "extend"
        raise InvalidError(named(error.message), code=error.code, param=param) from error


def _missing_from(examples: Sequence[ExampleInput], earlier: _Rows) -> list[ExampleInput]:
    texts = {example.input.strip() for example in examples}
    return [ExampleInput(**row) for row in earlier if row["input"].strip() not in texts]
