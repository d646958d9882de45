"""Response bodies of files, with OpenAI's field names."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.db.file_models import File, FilePurpose
from app.openai.fine_tuning.result_files import ResultFile
from app.openai.pages import Identified, seconds


class FileView(Identified):
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: FilePurpose | Literal["fine-tune-results"]
    status: Literal["processed", "error"] = Field(description="whether the file can be used for its purpose")
    status_details: str | None = Field(description="why it cannot: the line, the field and what to do")

    @classmethod
    def of(cls, file: File) -> "FileView":
        return cls(
            id=file.id,
            bytes=file.size,
            created_at=seconds(file.created_at),
            expires_at=None if file.expires_at is None else seconds(file.expires_at),
            filename=file.filename,
            purpose=file.purpose,
            status="processed" if file.error is None else "error",
            status_details=file.error,
        )

    @classmethod
    def of_result(cls, file: ResultFile, created_at: datetime) -> "FileView":
        return cls(
            id=file.id,
            bytes=len(file.content),
            created_at=seconds(created_at),
            expires_at=None,
            filename=file.filename,
            purpose="fine-tune-results",
            status="processed",
            status_details=None,
        )


class DeletedFileView(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
