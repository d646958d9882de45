"""Tenants share a capacity; none can use it up, and none is refused because of another."""

import pytest

from app.fairness.shared_capacity import SharedCapacity


class RefusedError(Exception):
    """The refusal of the tests."""


@pytest.fixture
def capacity() -> SharedCapacity:
    return SharedCapacity(12, RefusedError)


def flood(capacity: SharedCapacity, *tenants: str) -> dict[str, int]:
    """Let tenants take units in turn until all are refused, and return how many each one has."""
    taken = dict.fromkeys(tenants, 0)
    active = set(tenants)
    while active:
        for tenant in sorted(active):
            try:
                capacity.take(tenant, 1)
            except RefusedError:
                active.remove(tenant)
            else:
                taken[tenant] += 1
    return taken


@pytest.mark.parametrize(("tenants", "share"), [("a", 6), ("ab", 4), ("abc", 3)])
def test_tenants_get_equal_shares_and_leave_one_free(capacity: SharedCapacity, tenants: str, share: int) -> None:
    assert flood(capacity, *tenants) == dict.fromkeys(tenants, share)
    assert flood(capacity, "newcomer")["newcomer"] > 0


def test_units_that_are_given_back_can_be_taken_again(capacity: SharedCapacity) -> None:
    with capacity.use("a", 6):
        with pytest.raises(RefusedError):
            capacity.take("a", 1)
        capacity.take("b", 1)
    assert flood(capacity, "a") == {"a": 5}


def test_a_request_larger_than_any_share_is_accepted_from_a_tenant_that_uses_nothing(capacity: SharedCapacity) -> None:
    capacity.take("a", 5)
    capacity.take("b", 20)
    with pytest.raises(RefusedError):
        capacity.take("c", 1)
    capacity.give_back("b", 20)
    capacity.take("c", 1)
