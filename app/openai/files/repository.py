"""Queries on a tenant's files; expired files do not exist."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, Select, delete, func, or_, select, tuple_
from sqlalchemy.orm import Session, defer

from app.db.file_models import File, FilePurpose
from app.db.ids import new_id


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


def totals(session: Session, tenant_id: str) -> tuple[int, int]:
    """Return the number and the bytes of a tenant's files, and delete the files of the tenant that have expired.

    Locks the tenant's files until the transaction ends, so that no concurrent upload changes the totals.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"files\n{tenant_id}", 0))))
    session.execute(delete(File).where(File.tenant_id == tenant_id, File.expires_at <= func.now()))
    sums = select(func.count(), func.coalesce(func.sum(File.size), 0)).where(File.tenant_id == tenant_id)
    count, size = session.execute(sums).one()
    return count, int(size)


def get(session: Session, tenant_id: str, file_id: str) -> File | None:
    """Return a file with its content, None if the tenant has no such file."""
    return session.scalar(_of_tenant(tenant_id).where(File.id == file_id))


def get_summary(session: Session, tenant_id: str, file_id: str) -> File | None:
    """Return a file without its content, None if the tenant has no such file."""
    return session.scalar(_summaries(tenant_id).where(File.id == file_id))


def page(
    session: Session, tenant_id: str, *, purpose: str | None, after: File | None, limit: int, ascending: bool
) -> Sequence[File]:
    """Return at most `limit` files by time of creation, without their contents, beginning behind `after`."""
    query = _summaries(tenant_id)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    position = tuple_(File.created_at, File.id)
    if after is not None:
        last = tuple_(after.created_at, after.id)
        query = query.where(position > last if ascending else position < last)
    columns = (File.created_at, File.id)
    return session.scalars(query.order_by(*(c if ascending else c.desc() for c in columns)).limit(limit)).all()


def remove(session: Session, tenant_id: str, file_id: str) -> bool:
    """Delete a file; False if the tenant has no such file."""
    deletion = delete(File).where(File.tenant_id == tenant_id, File.id == file_id, _exists()).returning(File.id)
    return session.scalar(deletion) is not None


def _of_tenant(tenant_id: str) -> Select[File]:
    return select(File).where(File.tenant_id == tenant_id, _exists())


def _summaries(tenant_id: str) -> Select[File]:
    return _of_tenant(tenant_id).options(defer(File.content, raiseload=True))


def _exists() -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > func.now())
