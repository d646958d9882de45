"""The tables of files and batches below /openai/v1."""

import uuid
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import NOW, Base, one_of

FilePurpose = Literal["fine-tune", "batch", "batch_output"]
BatchState = Literal["in_progress", "cancelling", "completed", "cancelled", "expired"]


class File(Base):
    """A file below /openai/v1/files; `error` says why its content cannot be used, null if it can.

    `content` is empty if the file is stored in parts.
    """

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_tenant_id_created_at_id", "tenant_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    filename: Mapped[str]
    purpose: Mapped[FilePurpose] = mapped_column(String)
    size: Mapped[int]
    content: Mapped[bytes]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]

    @property
    def in_parts(self) -> bool:
        """Whether the content is in rows of `FilePart`."""
        return len(self.content) < self.size


class FilePart(Base):
    """A part of the content of a file that may be too large for one value."""

    __tablename__ = "file_parts"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]


class Batch(Base):
    """A file of requests that an API process answers piece by piece, under a lease on this row.

    `served_at` is the time at which a process last took a piece of it; it orders the turns.
    """

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint(one_of("state", BatchState), name="state"),
        Index("ix_batches_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
        Index("ix_batches_open", "tenant_id", postgresql_where=text("state IN ('in_progress', 'cancelling')")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    state: Mapped[BatchState] = mapped_column(String, server_default=text("'in_progress'"))
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    total: Mapped[int]
    completed: Mapped[int] = mapped_column(server_default=text("0"))
    failed: Mapped[int] = mapped_column(server_default=text("0"))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    served_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    cancelling_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class BatchRequestRow(Base):
    """A request of a batch that has not finished; `status` and `response` are null until it is answered."""

    __tablename__ = "batch_requests"
    __table_args__ = (Index("ix_batch_requests_open", "batch_id", "line", postgresql_where=text("status IS NULL")),)

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    custom_id: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    status: Mapped[int | None]
    response: Mapped[str | None] = mapped_column(Text)
