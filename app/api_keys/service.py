"""Issue, list, revoke and look up API keys; only the SHA-256 of a key is stored."""

import hashlib
import hmac
import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.models import ApiKey, Tenant

DEFAULT_SCOPES = ("adapt", "predict")
OPERATOR = "operator"
"""The key id of IPT_API_KEY, and of every caller if access is open."""
_PREFIX_CHARS = 12


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request: its tenant, its key and the scopes of that key."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Return whether the key has this scope; `admin` includes all others."""
        return scope in self.scopes or "admin" in self.scopes


def issue(
    session: Session,
    tenant_id: str,
    *,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    lifetime: timedelta | None = None,
    name: str | None = None,
) -> tuple[ApiKey, str]:
    """Create a key for a tenant, which is added if it is new; without a `lifetime` the key never expires.

    Returns:
        The key's row and the key itself. The key is not stored, so this is the only time that it can be shown.
    """
    session.execute(insert(Tenant).values(id=tenant_id).on_conflict_do_nothing())
    key = f"ipt_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        prefix=key[:_PREFIX_CHARS],
        sha256=_digest(key),
        name=name,
        scopes=sorted(set(scopes)),
        expires_at=None if lifetime is None else func.now() + lifetime,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, key


def listed(session: Session, tenant_id: str | None = None) -> Sequence[ApiKey]:
    """Return all keys, or the keys of one tenant, oldest first, including expired and revoked ones."""
    query = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)
    return session.scalars(query if tenant_id is None else query.where(ApiKey.tenant_id == tenant_id)).all()


def revoke(session: Session, key_id: str) -> ApiKey | None:
    """Revoke a key from its next request on; return None if the id is unknown. Idempotent."""
    row = session.get(ApiKey, key_id, with_for_update=True)
    if row is not None and row.revoked_at is None:
        row.revoked_at = func.now()
        session.flush()
        session.refresh(row)
    return row


def callers_with(session: Session, keys: Sequence[str]) -> list[Caller | None]:
    """Return the caller for each of these keys, None for a key that is unknown, expired or revoked."""
    columns = select(ApiKey.prefix, ApiKey.sha256, ApiKey.id, ApiKey.tenant_id, ApiKey.scopes)
    prefixes = {key[:_PREFIX_CHARS] for key in keys}
    candidates: dict[str, list[tuple[bytes, Caller]]] = defaultdict(list)
    for row in session.execute(columns.where(ApiKey.prefix.in_(prefixes), _is_valid())):
        caller = Caller(row.tenant_id, row.id, frozenset(row.scopes))
        candidates[row.prefix].append((row.sha256, caller))
    return [_caller_with(key, candidates[key[:_PREFIX_CHARS]]) for key in keys]


def is_still_valid(session: Session, caller: Caller) -> bool:
    """Return whether the key of an admitted caller has neither expired nor been revoked since."""
    key = select(ApiKey.id).where(ApiKey.id == caller.key_id, _is_valid())
    return caller.key_id == OPERATOR or session.scalar(key) is not None


def _caller_with(key: str, candidates: Sequence[tuple[bytes, Caller]]) -> Caller | None:
    digest = _digest(key)
    callers = [caller for sha256, caller in candidates if hmac.compare_digest(sha256, digest)]
    return callers[0] if callers else None


def _is_valid() -> ColumnElement[bool]:
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))


def same_key(first: str, second: str) -> bool:
    """Return whether two keys are equal, in constant time."""
    return hmac.compare_digest(_digest(first), _digest(second))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
