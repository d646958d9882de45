"""Issue, list and revoke API keys, and find out who calls with one; only a key's SHA-256 is ever kept."""

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
"""In place of a key's id for the key of the settings, and for everybody where none is needed."""
_PREFIX_CHARS = 12


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever calls: as which tenant, with which key, and what that key may be used for."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the key has this scope; `admin` includes the others."""
        return scope in self.scopes or "admin" in self.scopes


def issue(
    session: Session,
    tenant_id: str,
    *,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    lifetime: timedelta | None = None,
    name: str | None = None,
) -> tuple[ApiKey, str]:
    """Make a key of a tenant, who is added if new; without a `lifetime` it is good until it is revoked.

    Returns its row and the key itself, which is kept nowhere: this is the one time it is seen.
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
    """All keys, or those of one tenant, oldest first; also those that are good no more."""
    query = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)
    return session.scalars(query if tenant_id is None else query.where(ApiKey.tenant_id == tenant_id)).all()


def revoke(session: Session, key_id: str) -> ApiKey | None:
    """Let a key in no more, from its next request on; None if there is none of this id. Again changes nothing."""
    row = session.get(ApiKey, key_id, with_for_update=True)
    if row is not None and row.revoked_at is None:
        row.revoked_at = func.now()
        session.flush()
        session.refresh(row)
    return row


def callers_with(session: Session, keys: Sequence[str]) -> list[Caller | None]:
    """Who calls with each of these keys, None for one that is unknown, expired or revoked."""
    named = select(ApiKey.prefix, ApiKey.sha256, ApiKey.id, ApiKey.tenant_id, ApiKey.scopes)
    prefixes = {key[:_PREFIX_CHARS] for key in keys}
    candidates: dict[str, list[tuple[bytes, Caller]]] = defaultdict(list)
    for row in session.execute(named.where(ApiKey.prefix.in_(prefixes), _good())):
        caller = Caller(row.tenant_id, row.id, frozenset(row.scopes))
        candidates[row.prefix].append((row.sha256, caller))
    return [_caller_with(key, candidates[key[:_PREFIX_CHARS]]) for key in keys]


def still_lets_in(session: Session, caller: Caller) -> bool:
    """Whether the key of one who was let in has been neither revoked nor has expired since."""
    key = select(ApiKey.id).where(ApiKey.id == caller.key_id, _good())
    return caller.key_id == OPERATOR or session.scalar(key) is not None


def _caller_with(key: str, candidates: Sequence[tuple[bytes, Caller]]) -> Caller | None:
    digest = _digest(key)
    callers = [caller for sha256, caller in candidates if hmac.compare_digest(sha256, digest)]
    return callers[0] if callers else None


def _good() -> ColumnElement[bool]:
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))


def same_key(one: str, other: str) -> bool:
    """Whether two keys are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(_digest(one), _digest(other))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
