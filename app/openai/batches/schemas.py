"""Request and response bodies of batches, with OpenAI's field names."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.db.file_models import Batch, BatchState
from app.http.fields import Id, Metadata, StrictBody
from app.openai.batches.requests import Endpoint
from app.openai.pages import Identified, seconds


class BatchInput(StrictBody):
    """Fields that OpenAI's API has besides these are ignored."""

    input_file_id: Id = Field(description="a file of the purpose `batch`", examples=["file-8d3k5m1p9r7t2v4x6z0b1c3f"])
    endpoint: Endpoint = Field(description="that of all requests in the file")
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchView(Identified):
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: None = Field(default=None, description="always null: a file with an error makes no batch")
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: BatchState
    output_file_id: str | None = Field(description="the responses with status 200, once the batch has ended")
    error_file_id: str | None = Field(description="all other responses")
    created_at: int
    in_progress_at: int
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: None = None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str]

    @classmethod
    def of(cls, row: Batch) -> "BatchView":
        def at(moment: datetime | None) -> int | None:
            return None if moment is None else seconds(moment)

        def finished_as(state: BatchState) -> int | None:
            return at(row.finished_at) if row.state == state else None

        return cls(
            id=row.id,
            endpoint=row.endpoint,
            input_file_id=row.input_file_id,
            status=row.state,
            output_file_id=row.output_file_id,
            error_file_id=row.error_file_id,
            created_at=seconds(row.created_at),
            in_progress_at=seconds(row.created_at),
            expires_at=seconds(row.expires_at),
            finalizing_at=at(row.finished_at),
            completed_at=finished_as("completed"),
            expired_at=finished_as("expired"),
            cancelling_at=at(row.cancelling_at),
            cancelled_at=finished_as("cancelled"),
            request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
            metadata=row.metadata_,
        )
