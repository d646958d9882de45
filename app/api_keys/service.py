"""Issue API keys and find out whose a key is; only a key's SHA-256 is ever kept."""

import hashlib
import hmac
import secrets

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.models import ApiKey, Tenant
from app.ids import new_id

_PREFIX_CHARS = 12


def issue(session: Session, tenant_id: str) -> str:
    """Make a key of a tenant, who is added if new. The key itself is kept nowhere: this is the one time it is seen."""
    session.execute(insert(Tenant).values(id=tenant_id).on_conflict_do_nothing())
    key = f"ipt_{secrets.token_urlsafe(32)}"
    session.add(ApiKey(id=new_id("key"), tenant_id=tenant_id, prefix=key[:_PREFIX_CHARS], sha256=_digest(key)))
    return key


def tenant_of(session: Session, key: str) -> str | None:
    """The tenant whose key this is, None for a key that is unknown or revoked."""
    rows = session.execute(
        select(ApiKey.tenant_id, ApiKey.sha256).where(ApiKey.prefix == key[:_PREFIX_CHARS], ApiKey.revoked_at.is_(None))
    )
    digest = _digest(key)
    owners = [row.tenant_id for row in rows if hmac.compare_digest(row.sha256, digest)]
    return owners[0] if owners else None


def same_key(one: str, other: str) -> bool:
    """Whether two keys are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(_digest(one), _digest(other))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
