"""Store, find and delete files."""

import itertools
from collections.abc import Iterator

from sqlalchemy.orm import Session

from app.db.dependencies import OpenTransaction
from app.db.file_models import File
from app.errors import BusyError, NotFoundError
from app.openai.batches.requests import read_requests
from app.openai.files import repository
from app.openai.files.upload import Upload
from app.openai.json_lines import LineError
from app.openai.training_data import read_conversations
from app.settings import Settings


def fault(settings: Settings, upload: Upload) -> str | None:
    """Return why the content of a file cannot be used for its purpose, None if it can."""
    try:
        if upload.purpose == "batch":
            for _ in read_requests(upload.content):
                pass
            return None
        for count, conversation in enumerate(read_conversations(upload.content), start=1):
            if count > settings.max_examples:
                return (
                    f"line {conversation.line}: the file has more than {settings.max_examples:,} examples: send fewer"
                )
    except LineError as error:
        return str(error)
    return None


def store(session: Session, settings: Settings, tenant_id: str, upload: Upload, error: str | None) -> File:
    """Store a file; one with an error is stored too, as in OpenAI's API.

    Raises:
        BusyError: the tenant has too many files, or too many bytes in files.
    """
    count, size = repository.totals(session, tenant_id)
    if count >= settings.max_files or size + len(upload.content) > settings.max_files_bytes:
        raise BusyError(
            f"at most {settings.max_files:,} files of {settings.max_files_bytes:,} bytes together are kept, and you "
            f"have {count:,} of {size:,} bytes: delete some",
            code="too_many_files",
            param="file",
        )
    return repository.add(
        session,
        tenant_id,
        filename=upload.filename,
        purpose=upload.purpose,
        content=upload.content,
        error=error,
        lifetime=upload.lifetime,
    )


def get(session: Session, tenant_id: str, file_id: str, param: str = "file_id") -> File:
    """Return a file with its content.

    Raises:
        NotFoundError: the tenant has no such file; `param` is the request field that names it.
    """
    file = repository.get(session, tenant_id, file_id)
    if file is None:
        raise _not_found(param)
    return file


def get_summary(session: Session, tenant_id: str, file_id: str, param: str = "file_id") -> File:
    """Return a file without its content; raises as `get` does."""
    file = repository.get_summary(session, tenant_id, file_id)
    if file is None:
        raise _not_found(param)
    return file


def parts(transaction: OpenTransaction, tenant_id: str, file_id: str) -> Iterator[bytes]:
    """Yield the content of a file that is stored in parts; no transaction is open while a caller reads a part."""
    for number in itertools.count():
        with transaction() as session:
            part = repository.part(session, tenant_id, file_id, number)
        if part is None:
            return
        yield part


def remove(session: Session, tenant_id: str, file_id: str) -> None:
    """Delete a file. Jobs keep their examples.

    Raises:
        NotFoundError: the tenant has no such file.
    """
    if not repository.remove(session, tenant_id, file_id):
        raise _not_found("file_id")


def _not_found(param: str) -> NotFoundError:
    return NotFoundError("there is no file with this id", code="file_not_found", param=param)
