"""Create, find, cancel and finish batches."""

import json
from collections.abc import Iterable
from datetime import timedelta
from itertools import chain

from sqlalchemy import func
from sqlalchemy.orm import Session

from app.db.file_models import Batch
from app.db.ids import new_id
from app.errors import BusyError, ConflictError, InvalidError, NotFoundError
from app.openai.batches import repository
from app.openai.batches.requests import read_requests
from app.openai.batches.schemas import BatchInput
from app.openai.files import repository as files_repository
from app.openai.files import service as files
from app.openai.json_lines import LineError

MAX_OPEN = 20
"""Unfinished batches of one tenant."""
COMPLETION_WINDOW = timedelta(hours=24)
RESULT_LIFETIME = timedelta(days=30)
_EXPIRED = {"code": "batch_expired", "message": "the request was not answered within the completion window"}


def create(session: Session, tenant_id: str, body: BatchInput) -> Batch:
    """Queue the requests of a file.

    Raises:
        NotFoundError: the tenant has no such file.
        InvalidError: the file is no batch file, or its requests are for another endpoint.
        BusyError: the tenant has too many unfinished batches.
    """
    file = files.get(session, tenant_id, body.input_file_id, "input_file_id")
    if file.purpose != "batch":
        message = f"this file has the purpose {file.purpose!r}: upload it with the purpose 'batch'"
        raise InvalidError(message, code="invalid_batch_file", param="input_file_id")
    try:
        requests = list(read_requests(file.content))
    except LineError as error:
        raise InvalidError(str(error), code="invalid_batch_file", param="input_file_id") from error
    if requests[0].url != body.endpoint:
        message = f"line {requests[0].line}, url: is {requests[0].url}, but the batch is for {body.endpoint}"
        raise InvalidError(message, code="invalid_batch_file", param="endpoint")
    if repository.count_open(session, tenant_id) >= MAX_OPEN:
        raise BusyError(
            f"{MAX_OPEN} of your batches have not finished, which is the limit: wait for some, or cancel some",
            code="too_many_batches",
        )
    return repository.add(
        session,
        tenant_id,
        endpoint=body.endpoint,
        input_file_id=file.id,
        metadata=body.metadata or {},
        requests=requests,
        lifetime=COMPLETION_WINDOW,
    )


def get(session: Session, tenant_id: str, batch_id: str) -> Batch:
    """Return one batch.

    Raises:
        NotFoundError: the tenant has no such batch.
    """
    return _found(repository.get(session, tenant_id, batch_id))


def cancel(session: Session, tenant_id: str, batch_id: str) -> Batch:
    """Cancel a batch; it keeps the responses that it has, and ends with its next turn. Idempotent.

    Raises:
        NotFoundError: the tenant has no such batch.
        ConflictError: the batch has completed or expired.
    """
    batch = _found(repository.get(session, tenant_id, batch_id, lock=True))
    if batch.state in ("completed", "expired"):
        raise ConflictError(f"this batch has already {batch.state}", code="batch_finished", param="batch_id")
    if batch.state == "in_progress":
        batch.state = "cancelling"
        batch.cancelling_at = func.now()
        session.flush()
        session.refresh(batch)
    return batch


def finish(session: Session, batch: Batch) -> None:
    """End a batch whose row is locked: write its files, and delete its requests."""
    errors = repository.responses(session, batch.id, succeeded=False)
    if batch.state == "cancelling":
        batch.state = "cancelled"
    elif batch.completed + batch.failed < batch.total:
        batch.state = "expired"
        batch.failed = batch.total - batch.completed
        expired = (response_line(id_, None, _EXPIRED) for id_ in repository.unanswered_ids(session, batch.id))
        errors = chain(errors, expired)
    else:
        batch.state = "completed"
    batch.output_file_id = _write(session, batch, "output", repository.responses(session, batch.id, succeeded=True))
    batch.error_file_id = _write(session, batch, "error", errors)
    batch.finished_at = func.now()
    repository.release(batch)
    repository.remove_requests(session, batch.id)


def response_line(custom_id: str, response: dict[str, object] | None, error: dict[str, str] | None) -> str:
    """Return the line of a request in the output or the error file."""
    line = {"id": new_id("batch_req"), "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False)


def _write(session: Session, batch: Batch, kind: str, lines: Iterable[str]) -> str | None:
    """Store a result file, unless it would be empty, and return its id."""
    file = files_repository.add_in_parts(
        session,
        batch.tenant_id,
        filename=f"{batch.id}_{kind}.jsonl",
        purpose="batch_output",
        pieces=(f"{line}\n".encode() for line in lines),
        lifetime=RESULT_LIFETIME,
    )
    return None if file is None else file.id


def _found(batch: Batch | None) -> Batch:
    if batch is None:
        raise NotFoundError("there is no batch with this id", code="batch_not_found", param="batch_id")
    return batch
