"""API keys that are looked up together identify each caller as its own tenant."""

from sqlalchemy import Engine

from app.api_keys import service as api_keys
from app.db.session import transaction


def test_each_key_of_a_lookup_identifies_its_own_tenant(engine: Engine) -> None:
    with transaction(engine) as session:
        (first, key), (other, other_key) = (api_keys.issue(session, tenant) for tenant in ("a", "b"))
        revoked, revoked_key = api_keys.issue(session, "a")
        api_keys.revoke(session, revoked.id)
        forged = key[:-1] + ("A" if key[-1] != "A" else "B")  # has the prefix of the real key
        callers = api_keys.callers_with(session, [other_key, forged, key, revoked_key, "", key])
    identified = [caller and (caller.tenant_id, caller.key_id) for caller in callers]
    assert identified == [("b", other.id), None, ("a", first.id), None, None, ("a", first.id)]
