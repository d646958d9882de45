"""The statements of the queue's transactions in the model; `transactions` puts them in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.simulation.database import KEY_SHARE, NO_KEY_UPDATE, UPDATE, DatabaseError, Row, Transaction

LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease in the model, and in PostgreSQL if the history is mirrored."""

    adaptation_id: str
    task_id: str
    token: int
    attempt: int
    step: int
    mirrored: Any = None

    def mirrored_by(self, lease: Any) -> "Lease":
        """Return this lease with PostgreSQL's."""
        return replace(self, mirrored=lease)


def lock_row(tx: Transaction, table: str, row_id: str, mode: str) -> bool:
    if tx.get(table, row_id) is None:
        return False
    tx.lock((table, row_id), mode)
    return True


def _reference(tx: Transaction, table: str, row_id: str) -> None:
    """Check a foreign key, which locks the row that it refers to."""
    if not lock_row(tx, table, row_id, KEY_SHARE):
        raise DatabaseError(f"foreign key: no row {row_id} in {table}")


def insert_task(tx: Transaction, tenant: str, task_id: str) -> None:
    _reference(tx, "tenants", tenant)
    tx.put("tasks", task_id, {"tenant": tenant, "last": 1})
    tx.lock(("tasks", task_id), UPDATE)


def next_version(tx: Transaction, task_id: str) -> int | None:
    if not lock_row(tx, "tasks", task_id, NO_KEY_UPDATE):
        return None
    tx.change("tasks", task_id, last=tx.get("tasks", task_id)["last"] + 1)
    return int(tx.get("tasks", task_id)["last"])


def keep_dataset(tx: Transaction, tenant: str, dataset: str) -> None:
    if tx.get("datasets", dataset) is None:
        _reference(tx, "tenants", tenant)
        tx.put("datasets", dataset, {"tenant": tenant})
    tx.lock(("datasets", dataset), NO_KEY_UPDATE)


def insert_adaptation(
    tx: Transaction, tenant: str, key: str, new_id: str, task_id: str, version: int, dataset: str
) -> None:
    for table, row_id in (("tenants", tenant), ("tasks", task_id), ("datasets", dataset)):
        _reference(tx, table, row_id)
    row: Row = {
        "tenant": tenant, "key": (tenant, key), "task": task_id, "version": version, "dataset": dataset,
        "state": "queued", "attempt": 0, "cancel": False, "pause": False, "token": None, "until": None, "worker": None,
        "step": 0, "queued_at": tx.now,
    }  # fmt: skip
    tx.put("adaptations", new_id, row)
    tx.lock(("adaptations", new_id), UPDATE)
    _wait_for_turn(tx, tenant)


def _wait_for_turn(tx: Transaction, tenant: str) -> None:
    """The triggers of an adaptation that becomes queued."""
    if tx.get("tenants", tenant)["waiting"] is None:
        tx.lock(("tenants", tenant), NO_KEY_UPDATE)
        if tx.get("tenants", tenant)["waiting"] is None:
            tx.change("tenants", tenant, waiting=tx.now)


def resume(tx: Transaction, adaptation_id: str) -> None:
    tenant = tx.get("adaptations", adaptation_id)["tenant"]
    _reference(tx, "tenants", tenant)
    _wait_for_turn(tx, tenant)
    tx.change("adaptations", adaptation_id, state="queued")


def insert_event(tx: Transaction, adaptation_id: str, seq: int, kind: str, reason: str = "", step: int = 0) -> None:
    _reference(tx, "adaptations", adaptation_id)
    events = tx.get("events", adaptation_id) or ()
    if seq <= len(events):
        raise DatabaseError(f"unique: event {seq} of {adaptation_id}")
    assert tx.holds(("adaptations", adaptation_id)), "an event is appended without the adaptation's lock"
    tx.put("events", adaptation_id, (*events, (seq, kind, reason, step)))


def last_event(tx: Transaction, adaptation_id: str) -> int:
    events = tx.get("events", adaptation_id)
    return int(events[-1][0]) if events else 0


def select_for_update(tx: Transaction, adaptation_id: str) -> Row | None:
    return tx.get("adaptations", adaptation_id) if lock_row(tx, "adaptations", adaptation_id, UPDATE) else None


def lock_with_token(tx: Transaction, lease: Lease, *, nowait: bool = False) -> Row | None:
    tx.lease = (lease.adaptation_id, lease.token)
    row = tx.get("adaptations", lease.adaptation_id)
    if row is None or row["token"] != lease.token or row["state"] != "running":
        return None
    if nowait and not tx.try_lock(("adaptations", lease.adaptation_id), UPDATE):
        raise DatabaseError("lock not available")
    return select_for_update(tx, lease.adaptation_id)


def set_state(tx: Transaction, adaptation_id: str, state: str, **columns: Any) -> None:
    tx.change("adaptations", adaptation_id, state=state, token=None, until=None, worker=None, **columns)


def count_requeued(tx: Transaction, adaptation_id: str, reason: str, from_step: int) -> int:
    events = tx.get("events", adaptation_id) or ()
    return sum(kind == "requeued" and why == reason and step >= from_step for _, kind, why, step in events)


def renew(tx: Transaction, lease: Lease, step: int) -> bool:
    row = tx.get("adaptations", lease.adaptation_id)
    if row is None or row["token"] != lease.token:
        return False
    tx.lock(("adaptations", lease.adaptation_id), NO_KEY_UPDATE)
    tx.change("adaptations", lease.adaptation_id, until=tx.now + LEASE_SECONDS, step=step)
    return True


def insert_version(tx: Transaction, row: Row, adaptation_id: str) -> None:
    for table, row_id in (("tasks", row["task"]), ("tenants", row["tenant"]), ("adaptations", adaptation_id)):
        _reference(tx, table, row_id)
    key = f"{row['task']}/{row['version']}"
    if tx.get("versions", key) is not None:
        raise DatabaseError(f"unique: version {key}")
    tx.put("versions", key, {"adaptation": adaptation_id})


def lock_expired(tx: Transaction) -> list[tuple[str, Row]]:
    expired = [(i, row) for i, row in tx.scan("adaptations") if row["state"] == "running" and row["until"] < tx.now]
    expired.sort(key=lambda item: (item[1]["until"], item[0]))
    return [(i, row) for i, row in expired if tx.try_lock(("adaptations", i), UPDATE)]


def expire(tx: Transaction, worker: str) -> list[str]:
    mine = [i for i, row in tx.scan("adaptations") if row["state"] == "running" and row["worker"] == worker]
    for adaptation_id in mine:
        tx.lock(("adaptations", adaptation_id), NO_KEY_UPDATE)
        tx.change("adaptations", adaptation_id, until=tx.now - 1)
    return mine


def delete_task(tx: Transaction, task_id: str) -> None:
    for adaptation_id in [i for i, row in tx.scan("adaptations") if row["task"] == task_id]:
        tx.lock(("adaptations", adaptation_id), UPDATE)
    for adaptation_id, row in list(tx.scan("adaptations")):
        if row["task"] == task_id:
            for table, row_id in (
                ("adaptations", adaptation_id),
                ("events", adaptation_id),
                ("versions", f"{task_id}/{row['version']}"),
            ):
                tx.put(table, row_id, None)
    tx.put("tasks", task_id, None)


def delete_unused(tx: Transaction, datasets: Sequence[str]) -> None:
    used = {row["dataset"] for _, row in tx.scan("adaptations")}
    for dataset in datasets:
        if dataset not in used and tx.get("datasets", dataset) is not None:
            tx.put("datasets", dataset, None)


def idle_tenants(tx: Transaction) -> list[str]:
    busy = {row["tenant"] for _, row in tx.scan("adaptations") if row["state"] in ("queued", "running")}
    return [i for i, row in tx.scan("tenants") if row["waiting"] is not None and i not in busy]


def lock_next(tx: Transaction, slots: int) -> list[tuple[str, Row]]:
    """`turns.lock_next`."""
    queues: dict[str, list[tuple[float, str, Row]]] = {}
    running: dict[str, int] = {}
    for row_id, row in tx.scan("adaptations"):
        if row["state"] == "queued":
            queues.setdefault(row["tenant"], []).append((row["queued_at"], row_id, row))
        elif row["state"] == "running":
            running[row["tenant"]] = running.get(row["tenant"], 0) + 1
    served = {tenant: _nulls_first(row["served"]) for tenant, row in tx.scan("tenants")}
    waiting = {tenant: row["waiting"] for tenant, row in tx.scan("tenants")}
    idle = [tenant for tenant in queues if tenant not in running and waiting[tenant] is not None]
    idle = sorted(idle, key=lambda tenant: (served[tenant], waiting[tenant]))[:slots]
    busy = sorted((tenant for tenant in queues if tenant in running), key=lambda t: (running[t], served[t]))[:slots]
    places = [
        (running.get(tenant, 0) + place, served[tenant], queued_at, tenant)
        for tenant in (*idle, *busy)
        for place, (queued_at, _, _) in enumerate(sorted(queues[tenant])[:slots], start=1)
    ]
    share: dict[str, int] = {}
    for *_, tenant in sorted(places)[:slots]:
        share[tenant] = share.get(tenant, 0) + 1
    taken = []
    for tenant, most in share.items():
        rows = [entry for entry in sorted(queues[tenant]) if tx.try_lock(("adaptations", entry[1]), UPDATE)][:most]
        for place, (queued_at, row_id, row) in enumerate(rows, start=1):
            taken.append((running.get(tenant, 0) + place, served[tenant], queued_at, row_id, row))
    return [(row_id, row) for *_, row_id, row in sorted(taken, key=lambda entry: entry[:4])]


def _nulls_first(value: float | None) -> tuple[bool, float]:
    return (value is not None, value or 0.0)


def claim(tx: Transaction, ids: Sequence[str], worker: str, tokens: Iterator[int]) -> list[Lease]:
    leases = []
    for adaptation_id in ids:
        row = tx.get("adaptations", adaptation_id)
        lease = Lease(adaptation_id, row["task"], next(tokens), row["attempt"] + 1, row["step"])
        tx.change(
            "adaptations", adaptation_id, state="running", attempt=lease.attempt, worker=worker, token=lease.token,
            until=tx.now + LEASE_SECONDS,
        )  # fmt: skip
        leases.append(lease)
        insert_event(tx, adaptation_id, last_event(tx, adaptation_id) + 1, "running", step=row["step"])
        if tx.try_lock(("tenants", row["tenant"]), NO_KEY_UPDATE):
            tx.change("tenants", row["tenant"], served=tx.now)
    return leases
