"""A queue that serves tenants by deficit round robin, so that one tenant's entries do not delay another tenant's."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


@dataclass(slots=True)
class _Tenant(Generic[Entry]):
    credit: int
    entries: deque[Entry] = field(default_factory=deque)


class FairQueue(Generic[Entry]):
    """First in, first out within a tenant; among tenants, each turn is worth about `quantum` units of cost.

    A turn ends once its credit is used up. A tenant whose entry cost more than its credit starts its next turns with
    the debt, so an entry of any size gets its turn, and a tenant with large entries gets no more than the others. A
    tenant without entries has neither credit nor debt. Not thread-safe.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._tenants: OrderedDict[str, _Tenant[Entry]] = OrderedDict()
        """The tenants that have entries; the first one has its turn."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, tenant_id: str, entry: Entry) -> None:
        """Add an entry; a tenant without entries joins at the end of the round."""
        if tenant_id not in self._tenants:
            self._tenants[tenant_id] = _Tenant(self._quantum)
        self._tenants[tenant_id].entries.append(entry)
        self._length += 1

    def first(self) -> Entry:
        """Return the entry that is served next."""
        return next(self.heads())

    def heads(self) -> Iterator[Entry]:
        """Yield the first entry of each tenant, in the order of their turns."""
        return (tenant.entries[0] for tenant in self._tenants.values())

    def charge(self, cost: int) -> None:
        """Charge the tenant whose turn it is, and pass the turn on if its credit is used up."""
        next(iter(self._tenants.values())).credit -= cost
        while True:
            tenant_id, tenant = next(iter(self._tenants.items()))
            if tenant.credit > 0:
                break
            tenant.credit += self._quantum
            self._tenants.move_to_end(tenant_id)

    def pop(self, cost: int) -> Entry:
        """Remove and return the first entry, and charge its tenant."""
        tenant_id, tenant = next(iter(self._tenants.items()))
        entry = tenant.entries.popleft()
        self._length -= 1
        if tenant.entries:
            self.charge(cost)
        else:
            del self._tenants[tenant_id]
        return entry

    def put_first(self, tenant_id: str) -> None:
        """Give the turn to this tenant."""
        self._tenants.move_to_end(tenant_id, last=False)

    def move_behind(self, tenant_id: str) -> None:
        """Move the first entry of a tenant behind its others."""
        self._tenants[tenant_id].entries.rotate(-1)

    def remove_if(self, is_over: Callable[[Entry], bool]) -> list[Entry]:
        """Remove and return the entries for which `is_over` is true, wherever they stand."""
        removed: list[Entry] = []
        for tenant_id, tenant in list(self._tenants.items()):
            entries, tenant.entries = tenant.entries, deque()
            for entry in entries:
                (removed if is_over(entry) else tenant.entries).append(entry)
            if not tenant.entries:
                del self._tenants[tenant_id]
        self._length -= len(removed)
        return removed
