"""`/v1/tasks/{task_id}/examples`: list them, export them as a file, change them, and see how they changed."""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from app.adaptations.creation import CREATED, CreationDep, created
from app.adaptations.schemas import AdaptationView
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep
from app.db.dependencies import TransactionDep
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.examples import repository, service
from app.examples.rows import DatasetRow, rows_of
from app.examples.schemas import ChangeInput, ChangeView, ExamplesPage, ExampleView, SuspectView
from app.http.fields import Id, Storable
from app.http.pagination import Page
from app.tasks import service as tasks

router = APIRouter(
    prefix="/v1/tasks/{task_id}/examples",
    tags=["tasks"],
    responses=documented([PermissionDeniedError, NotFoundError]),
    route_class=AdmittingRoute,
)

Version = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="by default the newest version, tuned or not")]
Label = Annotated[Storable | None, Query(max_length=1000, description="only examples with exactly this label or text")]
Number = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of the previous page")]

_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/jsonl": {}, "text/csv": {}},
        "headers": {"content-disposition": {"description": "the name of the file", "schema": {"type": "string"}}},
    }
}
_COLUMNS = ("id", "split", "input", "output")


@router.get("", summary="List a task's examples")
def list_examples(
    task_id: Id,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    version: Version = None,
    label: Label = None,
    after: Number = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="examples per page, at most")] = 100,
) -> ExamplesPage:
    """List the examples of a version in their order, the validation examples last."""
    with transaction() as session:
        adaptation, dataset = service.of_version(session, tenant, task_id, version)
    rows = rows_of(dataset, adaptation.kind)
    selected = [row for row in rows if label is None or label in row.labels]
    first = after or 0
    end = first + limit
    return ExamplesPage(
        data=[ExampleView.of(row) for row in selected[first:end]],
        has_more=end < len(selected),
        next=str(end) if end < len(selected) else None,
        version=adaptation.task_version,
        state=adaptation.state,
        content_hash=dataset.content_hash,
        labels=ExamplesPage.labels_of(rows, adaptation.kind),
    )


@router.get(
    "/file",
    summary="Export a task's examples",
    response_class=StreamingResponse,
    responses=_FILE,
)
def export_examples(
    task_id: Id,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    version: Version = None,
    label: Label = None,
    format: Annotated[Literal["jsonl", "csv"], Query(description="JSON lines or CSV")] = "jsonl",  # noqa: A002
) -> StreamingResponse:
    """Return the examples of a version as a file that `POST /v1/adaptations` reads; further columns are ignored.

    Several labels are a list, in CSV as JSON; send such a file with `kind` multilabel.
    """
    with transaction() as session:
        adaptation, dataset = service.of_version(session, tenant, task_id, version)
    rows = [row for row in rows_of(dataset, adaptation.kind) if label is None or label in row.labels]
    name = f"examples-{adaptation.task_version}.{format}"
    return StreamingResponse(
        _jsonl(rows) if format == "jsonl" else _csv(rows),
        media_type="application/jsonl" if format == "jsonl" else "text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.get("/suspects", summary="List examples with a doubtful label", responses=documented([ConflictError]))
def list_suspects(
    task_id: Id,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    version: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="by default the newest that can answer")
    ] = None,
) -> Page[SuspectView]:
    """List the examples that another label fits better, the clearest first, by the version's held-out logits."""
    with transaction() as session:
        return Page(data=service.suspects(session, tenant, task_id, version), has_more=False)


@router.get("/history", summary="List how a task's examples changed")
def list_changes(
    task_id: Id,
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
    after: Number = None,
    limit: Annotated[int, Query(ge=1, le=100, description="versions per page, at most")] = 20,
) -> Page[ChangeView]:
    """List the dataset of each version by its content hash, newest first, with what was changed to get it."""
    with transaction() as session:
        tasks.get(session, tenant, task_id)
        rows = repository.changes(session, tenant, task_id, before=after, limit=limit + 1)
    has_more = len(rows) > limit
    views = [
        ChangeView(
            version=adaptation.task_version,
            state=adaptation.state,
            adaptation_id=adaptation.id,
            content_hash=content_hash,
            examples=examples,
            validation_examples=validation_examples,
            change=adaptation.change,
            created_at=adaptation.created_at,
        )
        for adaptation, content_hash, examples, validation_examples in rows[:limit]
    ]
    return Page(data=views, has_more=has_more, next=str(views[-1].version) if has_more else None)


@router.patch(
    "",
    status_code=202,
    summary="Change a task's examples",
    responses=documented([ConflictError]) | CREATED,
)
async def change_examples(task_id: Id, body: ChangeInput, creation: CreationDep, response: Response) -> AdaptationView:
    """Queue a further version, tuned on the examples of the newest one with these changes.

    Its tuning starts at the vector of the newest version that has one. Of two changes of the same version, the later
    one gets 409: get the examples of the new version, and send the change for that.
    """
    return created(await creation.run(partial(service.change, task_id=task_id, body=body)), response)


def _jsonl(rows: list[DatasetRow]) -> Iterator[str]:
    for row in rows:
        fields = {"id": row.id, "split": row.split, "input": row.input, "output": row.shown_output}
        yield json.dumps(fields, ensure_ascii=False) + "\n"


def _csv(rows: list[DatasetRow]) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line)
    for values in (_COLUMNS, *([getattr(row, name) for name in _COLUMNS] for row in rows)):
        writer.writerow(values)
        yield line.getvalue()
        line.seek(0)
        line.truncate()
