"""A capacity that tenants share and that no tenant can use up."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SharedCapacity:
    """A number of units, of which a tenant may use as many as it leaves free (dynamic threshold).

    A single tenant gets half of the capacity, two get a third each, and so on. However many units they ask for, some
    are left for a tenant that uses none yet. Thread-safe.
    """

    def __init__(self, units: int, refusal: Callable[[], Exception]) -> None:
        """`refusal` returns the error for a tenant that asks for more than its share."""
        self._units = units
        self._refusal = refusal
        self._used: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, tenant_id: str, units: int) -> Iterator[None]:
        """Use units within the context; raises as `take` does."""
        self.take(tenant_id, units)
        try:
            yield
        finally:
            self.give_back(tenant_id, units)

    def take(self, tenant_id: str, units: int) -> None:
        """Take units until `give_back`, or raise the refusal.

        A tenant that uses none may take any number while at least one is free: its request could be larger than its
        share, and would be refused forever.
        """
        with self._lock:
            used, free = self._used[tenant_id], self._units - self._used.total()
            if used + units > free - units if used else free <= 0:
                raise self._refusal()
            self._used[tenant_id] += units

    def give_back(self, tenant_id: str, units: int) -> None:
        """Give back units that the tenant has taken."""
        with self._lock:
            self._used[tenant_id] -= units
            if not self._used[tenant_id]:
                del self._used[tenant_id]
