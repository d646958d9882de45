"""The promises of the queue, checked at each commit and at the end of a history."""

from collections import Counter
from typing import Any

from app.queue.lifecycle import MAX_LOSSES
from tests.simulation.database import Database, Transaction
from tests.simulation.statements import Lease
from tests.simulation.transactions import FINISHED, MAX_ATTEMPTS

_LAST_EVENTS = {
    "queued": {"queued", "requeued"},
    "running": {"running", "progress"},
    "paused": {"paused"},
    **{state: {state} for state in FINISHED},
}


class Violation(Exception):  # noqa: N818 - what the simulation looks for
    """A promise of the queue is broken."""


class Invariants:
    """Watches a database, and what clients and workers were told."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._accepted: dict[str, tuple[str, str]] = {}
        self._deleted: set[str] = set()
        self._errors: Counter[str] = Counter()
        self._rejected: set[str] = set()
        self._holders: dict[int, Any] = {}
        database.before_commit.append(self._check_changes)
        database.after_commit.append(self._check_rows)

    def record_accepted(self, tenant: str, key: str, answer: tuple[str, str]) -> None:
        """Record a 202: the ids of an adaptation and its task."""
        adaptation_id, task_id = answer
        _require(task_id in self._deleted or adaptation_id in self._database.rows["adaptations"], "a lost 202", key)
        earlier = self._accepted.get(f"{tenant}/{key}", answer)
        # Deleting a task deletes the keys of its adaptations, so that a later request with the key creates it again.
        _require(earlier == answer or earlier[1] in self._deleted, "two answers to one key", key)
        self._accepted[f"{tenant}/{key}"] = answer

    def record_deletion(self, task_id: str) -> None:
        self._deleted.add(task_id)

    def record_error(self, adaptation_id: str) -> None:
        self._errors[adaptation_id] += 1

    def record_rejection(self, adaptation_id: str) -> None:
        self._rejected.add(adaptation_id)

    def record_claim(self, lease: Lease, holder: object) -> None:
        _require(self._holders.setdefault(lease.token, holder) is holder, "one token for two workers", lease)

    def open_adaptations(self) -> list[str]:
        """Return the ids of the adaptations that have not ended."""
        return [i for i, row in self._database.rows["adaptations"].items() if row["state"] not in FINISHED]

    def check_end(self) -> None:
        """Check every adaptation after the recovery."""
        adaptations = self._database.rows["adaptations"]
        for adaptation_id, task_id in self._accepted.values():
            _require(adaptation_id in adaptations or task_id in self._deleted, "a lost 202", adaptation_id)
        for adaptation_id in adaptations:
            self._check_events(adaptation_id)

    def _check_changes(self, tx: Transaction) -> None:
        for (table, adaptation_id), row in tx.writes.items():
            before = self._database.rows["adaptations"].get(adaptation_id) if table == "adaptations" else None
            if before is None or row is None:
                continue
            _require(before["state"] not in FINISHED or before == row, "a final state changed", adaptation_id, row)
            if before["token"] is not None and before["token"] != row["token"]:
                by_holder = tx.lease == (adaptation_id, before["token"])
                expired = before["until"] < tx.now
                displaced = by_holder or self._preempts(tx, adaptation_id)
                _require(displaced or expired, "a valid lease was taken away", adaptation_id, before)
            elif before["token"] is not None and before["step"] != row["step"]:
                _require(tx.lease == (adaptation_id, before["token"]), "a write without the lease", adaptation_id)

    def _preempts(self, tx: Transaction, adaptation_id: str) -> bool:
        events = tx.get("events", adaptation_id)
        return bool(events) and events[-1][2] == "made_way"

    def _check_rows(self, tx: Transaction) -> None:
        rows = self._database.rows
        adaptations = rows["adaptations"]
        for table, row_id in tx.writes:
            if table == "adaptations" and (row := adaptations.get(row_id)) is not None:
                self._check_events(row_id)
                same_key = [other for other in adaptations.values() if other["key"] == row["key"]]
                _require(len(same_key) == 1, "two adaptations of one key", same_key)
            if table in ("adaptations", "tenants"):
                waiting = [tenant for tenant, row in rows["tenants"].items() if row["waiting"] is not None]
                asleep = [
                    row for row in adaptations.values() if row["state"] == "queued" and row["tenant"] not in waiting
                ]
                _require(not asleep, "no claim looks at this tenant", asleep)

    def _check_events(self, adaptation_id: str) -> None:
        row = self._database.rows["adaptations"][adaptation_id]
        events = self._database.rows["events"].get(adaptation_id, ())
        kinds = [event[1] for event in events]
        _require([event[0] for event in events] == list(range(1, len(events) + 1)), "gaps in events", events)
        _require(kinds[0] == "queued", "the first event", kinds)
        _require(kinds[-1] in _LAST_EVENTS[row["state"]], "state and last event differ", row, kinds)
        _require(sum(kind in FINISHED for kind in kinds) <= 1, "two final events", kinds)
        _require((row["token"] is None) == (row["state"] != "running"), "a lease without a run", row)
        version = self._database.rows["versions"].get(f"{row['task']}/{row['version']}")
        _require((version is not None) == (row["state"] == "succeeded"), "state and version differ", row)
        reasons = Counter(event[2] for event in events if event[1] == "requeued")
        _require(reasons["error"] <= self._errors[adaptation_id], "an error was counted twice", adaptation_id)
        uncounted = reasons["made_way"] + reasons["worker_stopped"] + reasons["pause_requested"]
        if row["state"] != "cancelled":
            _require(row["attempt"] == kinds.count("running") - uncounted, "attempts and events differ", row, kinds)
        if row["state"] == "failed":
            by_error = self._errors[adaptation_id] >= MAX_ATTEMPTS
            by_loss = reasons["worker_lost"] >= MAX_LOSSES - 1
            _require(by_error or by_loss or adaptation_id in self._rejected, "failed without a reason", row, kinds)


def _require(condition: bool, promise: str, *details: object) -> None:
    if not condition:
        raise Violation(f"{promise}: {details}")
