"""The fair queue serves tenants in turns by cost, whatever each of them queues."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.fairness.fair_queue import FairQueue

Entry = tuple[str, int]


def filled(quantum: int, entries: list[Entry]) -> FairQueue[Entry]:
    """A queue of entries, each a tenant and a cost."""
    queue = FairQueue[Entry](quantum)
    for tenant, cost in entries:
        queue.append(tenant, (tenant, cost))
    return queue


def drained(queue: FairQueue[Entry]) -> list[Entry]:
    return [queue.pop(queue.first()[1]) for _ in range(len(queue))]


def test_a_turn_is_worth_the_quantum() -> None:
    queue = filled(4, [("a", 2)] * 4 + [("b", 1)] * 6)
    assert [tenant for tenant, _ in drained(queue)] == list("aabbbbaabb")


def test_an_entry_of_a_new_tenant_waits_for_one_turn_of_the_others() -> None:
    queue = filled(4, [("a", 2)] * 100)
    queue.pop(2)
    queue.append("b", ("b", 50))
    assert [tenant for tenant, _ in drained(queue)[:3]] == ["a", "b", "a"]


def test_a_tenant_pays_for_a_large_entry_with_its_next_turns() -> None:
    queue = filled(4, [("a", 12), ("a", 1), ("b", 4), ("b", 4), ("b", 4), ("b", 4)])
    assert [tenant for tenant, _ in drained(queue)] == list("abbbab")


def test_a_tenant_that_left_has_neither_credit_nor_debt() -> None:
    queue = filled(4, [("a", 1000), ("b", 1), ("b", 1)])
    queue.pop(1000)
    queue.append("a", ("a", 1))
    queue.pop(1)
    assert [tenant for tenant, _ in drained(queue)] == list("ba")


def test_removed_entries_are_not_served() -> None:
    queue = filled(4, [("a", 1), ("b", 2), ("a", 3), ("c", 1)])
    assert queue.remove_if(lambda entry: entry[1] == 1) == [("a", 1), ("c", 1)]
    assert len(queue) == 2
    assert drained(queue) == [("a", 3), ("b", 2)]


def test_a_charge_without_an_entry_passes_the_turn_on() -> None:
    queue = filled(4, [("a", 1), ("b", 1)])
    queue.charge(3)
    assert queue.first()[0] == "a"
    queue.charge(1)
    assert queue.first()[0] == "b"


def test_a_tenant_can_be_given_the_turn() -> None:
    queue = filled(4, [("a", 1), ("b", 1), ("c", 1)])
    queue.put_first("c")
    assert [tenant for tenant, _ in drained(queue)] == list("cab")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=60),
    st.integers(1, 12),
)
def test_backlogged_tenants_get_equal_shares(entries: list[Entry], quantum: int) -> None:
    queue = filled(quantum, entries)
    waiting = Counter(tenant for tenant, _ in entries)
    served: Counter[str] = Counter(dict.fromkeys(waiting, 0))
    in_order: dict[str, list[Entry]] = {tenant: [] for tenant in waiting}
    while queue:
        tenant, cost = queue.pop(queue.first()[1])
        in_order[tenant].append((tenant, cost))
        served[tenant] += cost
        waiting[tenant] -= 1
        if all(waiting.values()):
            assert max(served.values()) - min(served.values()) <= 2 * quantum + 2 * 9
    assert in_order == {tenant: [entry for entry in entries if entry[0] == tenant] for tenant in waiting}


def test_an_empty_queue_has_no_first_entry() -> None:
    queue = filled(4, [])
    assert not queue
    with pytest.raises(StopIteration):
        queue.first()
