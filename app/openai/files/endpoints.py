"""`/openai/v1/files`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep
from app.db.dependencies import TransactionDep
from app.db.file_models import File, FilePurpose
from app.http.dependencies import SettingsDep
from app.http.fields import Id
from app.openai.dialect import PREFIX
from app.openai.files import repository, service
from app.openai.files.schemas import DeletedFileView, FileView
from app.openai.files.upload import FORM, Upload, read_upload
from app.openai.fine_tuning import service as fine_tuning
from app.openai.pages import AfterId, CursorPage, cursor_page

router = APIRouter(prefix=f"{PREFIX}/files", tags=["openai"], route_class=AdmittingRoute)

_BINARY = "application/octet-stream"
_CONTENT: dict[int | str, dict[str, Any]] = {200: {"content": {_BINARY: {"schema": {"type": "string"}}}}}


@router.post("", summary="Upload a file", openapi_extra=FORM)
def create_file(
    upload: Annotated[Upload, Depends(read_upload)],
    settings: SettingsDep,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
) -> FileView:
    """Store a JSONL file: training data for `fine-tune`, or the requests of a `batch`.

    The content is checked at once. A file that cannot be used has the status `error`, and `status_details` says why.
    """
    error = service.fault(settings, upload)
    with transaction() as session:
        return FileView.of(service.store(session, settings, tenant, upload, error))


@router.get("", summary="List files")
def list_files(
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    purpose: FilePurpose | None = None,
    order: Literal["asc", "desc"] = "desc",
    after: AfterId = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> CursorPage[FileView]:
    """List files by time of upload, newest first by default."""
    with transaction() as session:
        return cursor_page(
            session,
            repository.summaries(tenant, purpose),
            FileView.of,
            after=after,
            limit=limit,
            among=repository.of_tenant(tenant),
            ascending=order == "asc",
        )


@router.get("/{file_id}", summary="Look at a file")
def get_file(file_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> FileView:
    """Return a file's name, size and status."""
    with transaction() as session:
        result = fine_tuning.result_file(session, tenant, file_id)
        if result is not None:
            file, job = result
            return FileView.of_result(file, job.finished_at or job.created_at)
        return FileView.of(service.get_summary(session, tenant, file_id))


@router.delete("/{file_id}", summary="Delete a file")
def delete_file(file_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> DeletedFileView:
    """Delete a file; the fine-tuning jobs that were created with it keep their examples."""
    with transaction() as session:
        service.remove(session, tenant, file_id)
    return DeletedFileView(id=file_id)


@router.get("/{file_id}/content", summary="Download a file", response_class=Response, responses=_CONTENT)
def get_content(file_id: Id, transaction: TransactionDep, tenant: AdaptingTenantDep) -> Response:
    """Return the bytes of a file as they were uploaded, or a result file of a job that has succeeded."""
    with transaction() as session:
        result = fine_tuning.result_file(session, tenant, file_id)
        file = service.get(session, tenant, file_id) if result is None else result[0]
    if isinstance(file, File) and file.in_parts:
        parts = service.parts(transaction, tenant, file_id)
        return StreamingResponse(parts, media_type=_BINARY, headers={"Content-Length": str(file.size)})
    return Response(file.content, media_type=_BINARY)
