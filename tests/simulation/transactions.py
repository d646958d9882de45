"""The queue's transactions in the model, statement by statement, as `app.queue` and the API run them.

Each is a generator. It yields every statement as a function and gets its result. `mirror` runs the same transactions in
PostgreSQL and fails if they have other statements or other results.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from app.queue.claiming import count_joining
from app.queue.lifecycle import MAX_LOSSES
from tests.simulation import statements
from tests.simulation.database import KEY_SHARE, UPDATE, Row, Transaction
from tests.simulation.statements import Lease

Statement = Callable[[], Any]
Statements = Generator[Statement, Any, Any]

FINISHED = ("succeeded", "failed", "cancelled")
MAX_ATTEMPTS = 3
SUBSPACE = "sub_simulated"


# What the API does.


def post(tx: Transaction, tenant: str, key: str, new_id: str, task_id: str | None, task: str) -> Statements:
    """`adaptations.service.create`; returns the ids of the adaptation and its task, or None if the task is gone."""
    yield lambda: tx.lock(("name", f"{tenant}/{key}"), UPDATE)
    for earlier in (yield lambda: [(i, row) for i, row in tx.scan("adaptations") if row["key"] == (tenant, key)]):
        return earlier[0], earlier[1]["task"]
    yield lambda: tx.lock(("name", tenant), UPDATE)
    yield lambda: None  # counts the open adaptations
    if task_id is None:
        task_id, version = task, 1
        yield lambda: statements.insert_task(tx, tenant, task)
    else:
        version = yield lambda: statements.next_version(tx, str(task_id))
        if version is None:
            return None
    dataset = f"dat_{tenant}"
    yield lambda: statements.keep_dataset(tx, tenant, dataset)
    yield lambda: statements.insert_adaptation(tx, tenant, key, new_id, str(task_id), version, dataset)
    yield lambda: statements.insert_event(tx, new_id, 1, "queued")
    return new_id, task_id


def cancel(tx: Transaction, tenant: str, adaptation_id: str) -> Statements:
    """`lifecycle.request_cancel`; returns the state after it."""
    row = yield lambda: statements.select_for_update(tx, adaptation_id)
    if row is None or row["state"] in FINISHED:
        return row and row["state"]
    if row["state"] in ("queued", "paused"):
        tx.change("adaptations", adaptation_id, cancel=True)
        yield from _finish(tx, adaptation_id, "cancelled")
        yield lambda: None  # refreshes the row
        return "cancelled"
    if not row["cancel"]:
        yield lambda: tx.change("adaptations", adaptation_id, cancel=True)
    return "running"


def pause(tx: Transaction, tenant: str, adaptation_id: str) -> Statements:
    """`lifecycle.request_pause`; returns the state after it."""
    row = yield lambda: statements.select_for_update(tx, adaptation_id)
    if row is None or row["state"] not in ("queued", "running"):
        return row and row["state"]
    if row["state"] == "queued":
        yield lambda: tx.change("adaptations", adaptation_id, state="paused")
        yield from _append(tx, adaptation_id, "paused", step=row["step"])
        return "paused"
    if not row["pause"]:
        yield lambda: tx.change("adaptations", adaptation_id, pause=True)
    return "running"


def resume(tx: Transaction, tenant: str, adaptation_id: str) -> Statements:
    """`lifecycle.resume`; returns the state after it."""
    row = yield lambda: statements.select_for_update(tx, adaptation_id)
    if row is None or row["state"] not in ("paused", "running"):
        return row and row["state"]
    if row["state"] == "paused":
        yield lambda: statements.resume(tx, adaptation_id)
        yield from _append(tx, adaptation_id, "requeued", "resumed", row["step"])
        return "queued"
    if row["pause"]:
        yield lambda: tx.change("adaptations", adaptation_id, pause=False)
    return "running"


def delete(tx: Transaction, tenant: str, task_id: str) -> Statements:
    """`tasks.repository.remove`; returns whether there was a task."""
    if not (yield lambda: statements.lock_row(tx, "tasks", task_id, UPDATE)):
        return False
    datasets = yield lambda: sorted({row["dataset"] for _, row in tx.scan("adaptations") if row["task"] == task_id})
    yield lambda: statements.delete_task(tx, task_id)
    yield lambda: [statements.lock_row(tx, "datasets", dataset, UPDATE) for dataset in datasets]
    yield lambda: statements.delete_unused(tx, datasets)
    return True


# What workers do.


def check_leases(tx: Transaction, leases: Sequence[Lease]) -> Statements:
    """`lifecycle.check_leases`."""
    rows = yield lambda: [(lease, tx.get("adaptations", lease.adaptation_id)) for lease in leases]
    return {
        lease.adaptation_id: "cancel" if row["cancel"] else "pause" if row["pause"] else None
        for lease, row in rows
        if row and row["token"] == lease.token
    }


def renew(tx: Transaction, lease: Lease, step: int, event: bool) -> Statements:
    """`lifecycle.renew`."""
    tx.lease = (lease.adaptation_id, lease.token)
    if not (yield lambda: statements.renew(tx, lease, step)):
        return False
    if event:
        yield from _append(tx, lease.adaptation_id, "progress", step=step)
    return True


def succeed(tx: Transaction, lease: Lease) -> Statements:
    """`lifecycle.succeed`."""
    yield lambda: statements.lock_row(tx, "tasks", lease.task_id, KEY_SHARE)
    row = yield from _lock_lease(tx, lease)
    if row is None:
        return False
    if row["cancel"]:
        yield from _finish(tx, lease.adaptation_id, "cancelled")
        return True
    yield lambda: statements.set_state(tx, lease.adaptation_id, "succeeded")
    yield lambda: statements.insert_version(tx, row, lease.adaptation_id)
    yield from _append(tx, lease.adaptation_id, "succeeded")
    return True


def fail(tx: Transaction, lease: Lease) -> Statements:
    """`lifecycle.fail`."""
    if (yield from _lock_lease(tx, lease)) is None:
        return False
    yield from _finish(tx, lease.adaptation_id, "failed")
    return True


def cancel_running(tx: Transaction, lease: Lease) -> Statements:
    """`lifecycle.cancel_running`."""
    if (yield from _lock_lease(tx, lease)) is None:
        return False
    yield from _finish(tx, lease.adaptation_id, "cancelled")
    return True


def release(tx: Transaction, lease: Lease, reason: str, step: int) -> Statements:
    """`lifecycle.release`."""
    row = yield from _lock_lease(tx, lease)
    if row is None:
        return False
    yield from _release(tx, row, lease.adaptation_id, reason, step)
    return True


def retry(tx: Transaction, lease: Lease) -> Statements:
    """`lifecycle.retry`."""
    row = yield from _lock_lease(tx, lease)
    if row is None:
        return False
    errors = yield lambda: statements.count_requeued(tx, lease.adaptation_id, "error", 0)
    if 1 + errors >= MAX_ATTEMPTS and not row["cancel"]:
        yield from _finish(tx, lease.adaptation_id, "failed")
    else:
        yield from _requeue(tx, row, lease.adaptation_id, "error")
    return True


def reap(tx: Transaction) -> Statements:
    """`lifecycle.reap`; returns the ids."""
    expired = yield lambda: statements.lock_expired(tx)
    for adaptation_id, row in expired:
        lost = yield lambda i=adaptation_id, step=row["step"]: statements.count_requeued(tx, i, "worker_lost", step)
        if 1 + lost >= MAX_LOSSES and not row["cancel"]:
            yield from _finish(tx, adaptation_id, "failed")
        else:
            yield from _requeue(tx, row, adaptation_id, "worker_lost")
    idle = yield lambda: [i for i in statements.idle_tenants(tx) if tx.try_lock(("tenants", i), UPDATE)]
    if idle:
        yield lambda: [tx.change("tenants", i, waiting=None) for i in statements.idle_tenants(tx) if i in idle]
    return [adaptation_id for adaptation_id, _ in expired]


def expire_leases(tx: Transaction, worker: str) -> Statements:
    """`lifecycle.expire_leases`; returns how many."""
    return len((yield lambda: statements.expire(tx, worker)))


def claim(
    tx: Transaction,
    worker: str,
    slots: int,
    protected: int,
    batch: Sequence[tuple[Lease, int]],
    tokens: Iterator[int],
) -> Statements:
    """Do what `preemption.claim` does for a batch with these leases and steps; a retry runs in a batch of its own.

    Returns the new leases, and for each displaced lease whether it was preempted.
    """
    queued = yield lambda: statements.lock_next(tx, max(1, slots))
    joining = [row_id for row_id, _ in queued][: count_joining([row["attempt"] for _, row in queued], slots, protected)]
    if not joining:
        return [], []
    claimed = yield lambda: statements.claim(tx, joining, worker, tokens)
    preempted = []
    if claimed[0].attempt > 1 or any(lease.attempt > 1 for lease, _ in batch):
        for lease, step in batch:
            row = yield lambda lease=lease: statements.lock_with_token(tx, lease, nowait=True)
            if row is not None:
                columns = {"queued_at": tx.now} if row["attempt"] > 1 else {}
                yield from _release(tx, row, lease.adaptation_id, "made_way", step, **columns)
            preempted.append(row is not None)
    return claimed, preempted


# Parts of transactions.


def _append(tx: Transaction, adaptation_id: str, kind: str, reason: str = "", step: int = 0) -> Statements:
    last = yield lambda: statements.last_event(tx, adaptation_id)
    yield lambda: statements.insert_event(tx, adaptation_id, last + 1, kind, reason, step)


def _lock_lease(tx: Transaction, lease: Lease) -> Statements:
    return (yield lambda: statements.lock_with_token(tx, lease))


def _finish(tx: Transaction, adaptation_id: str, state: str, **columns: Any) -> Statements:
    yield lambda: statements.set_state(tx, adaptation_id, state, **columns)
    yield from _append(tx, adaptation_id, state)


def _requeue(tx: Transaction, row: Row, adaptation_id: str, reason: str, **columns: Any) -> Statements:
    if row["cancel"]:
        yield from _finish(tx, adaptation_id, "cancelled", **columns)
        return
    state = "paused" if row["pause"] else "queued"
    yield lambda: statements.set_state(tx, adaptation_id, state, pause=False, **columns)
    step = columns.get("step", row["step"])
    yield from _append(tx, adaptation_id, "requeued", reason, step)
    if row["pause"]:
        yield from _append(tx, adaptation_id, "paused", step=step)


def _release(tx: Transaction, row: Row, adaptation_id: str, reason: str, step: int, **columns: Any) -> Statements:
    yield from _requeue(tx, row, adaptation_id, reason, attempt=row["attempt"] - 1, step=step, **columns)


TRANSACTIONS: dict[str, Callable[..., Statements]] = {
    function.__name__: function
    for function in (
        post, cancel, pause, resume, delete, check_leases, renew, succeed, fail, cancel_running, release, retry, reap,
        expire_leases, claim,
    )
}  # fmt: skip
