"""Queries on a tenant's files; expired files do not exist."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from sqlalchemy import ColumnElement, Select, delete, func, insert, or_, select
from sqlalchemy.orm import Session, defer

from app.db.file_models import File, FilePart, FilePurpose
from app.db.ids import new_id

PART_BYTES = 256 * 1024
"""Least bytes of a part but the last one of a file."""


def add(
    session: Session,
    tenant_id: str,
    *,
    filename: str,
    purpose: FilePurpose,
    content: bytes,
    error: str | None,
    lifetime: timedelta | None,
) -> File:
    """Insert a file; `error` says why its content cannot be used, None if it can."""
    file = File(
        id=new_id("file", "-"),
        tenant_id=tenant_id,
        filename=filename,
        purpose=purpose,
        size=len(content),
        content=content,
        error=error,
        expires_at=None if lifetime is None else func.now() + lifetime,
    )
    session.add(file)
    session.flush()
    session.refresh(file, ["created_at", "expires_at"])
    return file


def add_in_parts(
    session: Session,
    tenant_id: str,
    *,
    filename: str,
    purpose: FilePurpose,
    pieces: Iterable[bytes],
    lifetime: timedelta | None,
) -> File | None:
    """Insert a file of any size without holding its content in memory; None if the content would be empty."""
    file: File | None = None
    for number, part in enumerate(_joined(pieces, PART_BYTES)):
        if file is None:
            file = add(
                session, tenant_id, filename=filename, purpose=purpose, content=b"", error=None, lifetime=lifetime
            )
        session.execute(insert(FilePart).values(file_id=file.id, number=number, content=part))
        file.size += len(part)
    return file


def part(session: Session, tenant_id: str, file_id: str, number: int) -> bytes | None:
    """Return a part of a file that is stored in parts, None behind the last one."""
    parts = select(FilePart.content).join(File).where(File.tenant_id == tenant_id, File.id == file_id, _exists())
    return session.scalar(parts.where(FilePart.number == number))


def _joined(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Join pieces to parts of at least `size` bytes; the last part may be smaller."""
    part = bytearray()
    for piece in pieces:
        part += piece
        if len(part) >= size:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


def totals(session: Session, tenant_id: str) -> tuple[int, int]:
    """Return the number and the bytes of a tenant's files, and delete the files of the tenant that have expired.

    Locks the tenant's files until the transaction ends, so that no concurrent upload changes the totals.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"files\n{tenant_id}", 0))))
    session.execute(delete(File).where(File.tenant_id == tenant_id, File.expires_at <= func.now()))
    sums = select(func.count(), func.coalesce(func.sum(File.size), 0)).where(File.tenant_id == tenant_id)
    count, size = session.execute(sums).one()
    return count, int(size)


def of_tenant(tenant_id: str) -> Select[File]:
    """Select a tenant's files."""
    return select(File).where(File.tenant_id == tenant_id, _exists())


def get(session: Session, tenant_id: str, file_id: str) -> File | None:
    """Return a file with its content, None if the tenant has no such file."""
    return session.scalar(of_tenant(tenant_id).where(File.id == file_id))


def get_summary(session: Session, tenant_id: str, file_id: str) -> File | None:
    """Return a file without its content, None if the tenant has no such file."""
    return session.scalar(summaries(tenant_id).where(File.id == file_id))


def summaries(tenant_id: str, purpose: str | None = None) -> Select[File]:
    """Select a tenant's files without their contents."""
    query = of_tenant(tenant_id).options(defer(File.content, raiseload=True))
    return query if purpose is None else query.where(File.purpose == purpose)


def remove(session: Session, tenant_id: str, file_id: str) -> bool:
    """Delete a file; False if the tenant has no such file."""
    deletion = delete(File).where(File.tenant_id == tenant_id, File.id == file_id, _exists()).returning(File.id)
    return session.scalar(deletion) is not None


def _exists() -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > func.now())
