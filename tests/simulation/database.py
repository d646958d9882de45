"""A model of PostgreSQL for the queue: rows, row locks, advisory locks and transactions at READ COMMITTED.

A statement sees the committed rows and its own transaction's writes. It raises `Blocked` if it has to wait for a lock,
and is then executed again from its start: like PostgreSQL, which evaluates the condition anew on the row that it gets.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]
Key = tuple[str, str]
"""A table and an id; advisory locks have the table `name`."""
Check = Callable[["Transaction"], None]

KEY_SHARE, NO_KEY_UPDATE, UPDATE = "key share", "no key update", "update"
TABLES = ("tenants", "tasks", "datasets", "adaptations", "events", "versions")


class Blocked(Exception):  # noqa: N818 - no error: the statement waits
    """The statement waits for the transaction `holder`."""

    def __init__(self, holder: "Transaction") -> None:
        super().__init__()
        self.holder = holder


class DatabaseError(Exception):
    """The transaction has failed; `unknown` if it may have been committed."""

    def __init__(self, reason: str, *, unknown: bool = False) -> None:
        super().__init__(reason)
        self.unknown = unknown


class Database:
    """The committed rows of every table, and the transactions in progress."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
        self.now = 0.0
        self.open: list[Transaction] = []
        self.locks: dict[Key, list[tuple[Transaction, str]]] = defaultdict(list)
        self.before_commit: list[Check] = []
        self.after_commit: list[Check] = []

    def begin(self) -> "Transaction":
        """Begin a transaction; no two begin at the same time, so that rows have one order."""
        self.now += 1e-3
        transaction = Transaction(self, self.now)
        self.open.append(transaction)
        return transaction


class Transaction:
    """A transaction in progress: its writes, which nothing else sees, and its locks."""

    def __init__(self, database: Database, now: float) -> None:
        self.database = database
        self.now = now
        self.active_at = now
        self.writes: dict[Key, Any] = {}
        self.locked: list[Key] = []
        self.ended = False
        self.lease: tuple[str, int] | None = None
        """The adaptation and the token of the lease under which a worker writes, for the invariants."""

    def get(self, table: str, row_id: str) -> Any:
        """Return a row, or None."""
        key = (table, row_id)
        return self.writes[key] if key in self.writes else self.database.rows[table].get(row_id)

    def scan(self, table: str) -> Iterator[tuple[str, Any]]:
        """Yield every visible row, in the order of insertion."""
        writes = self.writes
        for row_id, committed in self.database.rows[table].items():
            row = writes.get((table, row_id), committed)
            if row is not None:
                yield row_id, row
        for (written_table, row_id), row in writes.items():
            if written_table == table and row is not None and row_id not in self.database.rows[table]:
                yield row_id, row

    def put(self, table: str, row_id: str, row: Any) -> None:
        """Insert or replace a row, or delete it if `row` is None."""
        self.writes[table, row_id] = row

    def change(self, table: str, row_id: str, **columns: Any) -> None:
        """Update columns of a row."""
        self.writes[table, row_id] = {**self.get(table, row_id), **columns}

    def lock(self, key: Key, mode: str) -> None:
        """Take a lock until the transaction ends.

        Raises:
            Blocked: another transaction holds a lock that conflicts.
        """
        holder = self._conflicting(key, mode)
        if holder is not None:
            raise Blocked(holder)
        self.locked.append(key)
        self.database.locks[key].append((self, mode))

    def try_lock(self, key: Key, mode: str) -> bool:
        """Take a lock unless that would block."""
        if self._conflicting(key, mode) is not None:
            return False
        self.lock(key, mode)
        return True

    def holds(self, key: Key) -> bool:
        """Whether this transaction keeps others from changing a row."""
        return any(holder is self and mode != KEY_SHARE for holder, mode in self.database.locks.get(key, ()))

    def commit(self) -> None:
        for check in self.database.before_commit:
            check(self)
        for (table, row_id), row in self.writes.items():
            if row is None:
                self.database.rows[table].pop(row_id, None)
            else:
                self.database.rows[table][row_id] = row
        self.roll_back()
        for check in self.database.after_commit:
            check(self)

    def roll_back(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.database.open.remove(self)
        for key in set(self.locked):
            left = [entry for entry in self.database.locks[key] if entry[0] is not self]
            if left:
                self.database.locks[key] = left
            else:
                del self.database.locks[key]

    def _conflicting(self, key: Key, mode: str) -> "Transaction | None":
        for holder, held in self.database.locks.get(key, ()):
            if holder is not self and (UPDATE in (mode, held) or mode == held == NO_KEY_UPDATE):
                return holder
        return None
