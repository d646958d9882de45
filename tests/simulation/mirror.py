"""Runs the transactions of a history in PostgreSQL too, statement by statement, and compares every result.

The code that runs is `app.queue` itself, in a thread that pauses before each statement until the model has executed its
own. PostgreSQL reads the time of the history: a function `now` shadows its own.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import Engine, create_engine, event, func, text
from sqlalchemy.orm import Session

import ipt
from app.adaptations import repository as adaptations
from app.db.models import Adaptation, SubspaceRow, Task, Tenant
from app.errors import ErrorDetail
from app.queue import claiming, lifecycle
from app.tasks import repository as tasks
from tests.simulation.database import Database, Transaction
from tests.simulation.history import TENANTS
from tests.simulation.statements import LEASE_SECONDS, Lease
from tests.simulation.transactions import MAX_ATTEMPTS, SUBSPACE

NewMirror = Callable[[], AbstractContextManager["Mirror"]]

MOST_CONNECTIONS = 50
_SEARCH_PATH = "-c search_path=simulation,public,pg_catalog"
_TIME_TOLERANCE = 1e-5
_ERROR = ErrorDetail(message="no", type="internal_error", param=None, code="internal_error")
_TUNED = ipt.AdaptedTask(
    ipt.TaskHead(
        vector=np.zeros(1, np.float32), subspace_id=SUBSPACE, kind="classification", labels=("a", "b"), readout=b""
    ),
    metrics={},
    warnings=[],
)
_CONTENTS = text("""
SELECT
    (SELECT coalesce(jsonb_object_agg(id, jsonb_build_array(state, attempt, cancel_requested, pause_requested, step,
        worker_id, extract(epoch FROM lease_until), extract(epoch FROM queued_at))), '{}') FROM adaptations),
    (SELECT coalesce(jsonb_object_agg(id, list), '{}') FROM (
        SELECT adaptation_id AS id, jsonb_agg(jsonb_build_array(seq, type, coalesce(data->>'reason', ''),
            coalesce((data->>'step')::int, 0)) ORDER BY seq) AS list FROM adaptation_events GROUP BY 1) each),
    (SELECT coalesce(jsonb_object_agg(task_id || '/' || version, adaptation_id), '{}') FROM task_versions),
    (SELECT jsonb_object_agg(id, jsonb_build_array(extract(epoch FROM served_at), extract(epoch FROM waiting_since)))
        FROM tenants WHERE id LIKE 't_'),
    (SELECT coalesce(jsonb_object_agg(id, last_version), '{}') FROM tasks),
    (SELECT count(*) FROM datasets)
""")


class Mismatch(Exception):  # noqa: N818 - the model is wrong
    """The model and PostgreSQL, or the model and the code of the queue, differ."""


@contextmanager
def mirrored(engine: Engine) -> Iterator[NewMirror]:
    """Prepare a migrated database, and yield a function that empties it and mirrors a history in it."""
    _prepare(engine)
    with_clock = create_engine(engine.url, pool_size=MOST_CONNECTIONS, connect_args={"options": _SEARCH_PATH})

    @contextmanager
    def new_mirror() -> Iterator[Mirror]:
        mirror = Mirror(with_clock, TENANTS)
        try:
            yield mirror
        finally:
            mirror.close()

    yield new_mirror
    with_clock.dispose()


def _prepare(engine: Engine) -> None:
    """Create the function that shadows `now` for connections with `_SEARCH_PATH`, and the subspace."""
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA simulation"))
        connection.execute(
            text(
                "CREATE FUNCTION simulation.now() RETURNS timestamptz LANGUAGE sql STABLE"
                " RETURN to_timestamp(current_setting('simulation.now')::float8)"
            )
        )
    with Session(engine) as session, session.begin():
        session.add(SubspaceRow(id=SUBSPACE, intrinsic_dim=1, prompt_length=1, hidden_size=1, manifest={}))


class Mirror:
    """A PostgreSQL database that follows the model."""

    def __init__(self, engine: Engine, tenants: Sequence[str]) -> None:
        """Empty the tables of `engine`'s database."""
        self._engine = engine
        self._open: dict[Transaction, MirroredTransaction] = {}
        event.listen(engine, "before_cursor_execute", _pause)
        with Session(engine) as session, session.begin():
            session.execute(text("TRUNCATE tenants CASCADE"))
            session.add_all([Tenant(id=tenant) for tenant in tenants])

    def begin(self, tx: Transaction, name: str, arguments: Sequence[Any]) -> "MirroredTransaction":
        """Begin the transaction in PostgreSQL and run it up to its first statement."""
        session = Session(self._engine, expire_on_commit=False)
        session.execute(text("SELECT set_config('simulation.now', :now, true)"), {"now": str(tx.now)})
        mirrored = self._open[tx] = MirroredTransaction(session, name, arguments)
        return mirrored

    def end(self, tx: Transaction) -> None:
        """End a transaction as the server does."""
        if tx in self._open:
            self._open.pop(tx).roll_back()

    def close(self) -> None:
        """Roll back everything that is open."""
        for tx in list(self._open):
            self.end(tx)
        event.remove(self._engine, "before_cursor_execute", _pause)

    def compare(self, database: Database) -> None:
        """Compare all committed rows.

        Raises:
            Mismatch: they differ.
        """
        with self._engine.connect() as connection:
            rows, events, versions, tenants, last, datasets = connection.execute(_CONTENTS).one()
        model = database.rows
        columns = ("state", "attempt", "cancel", "pause", "step", "worker", "until", "queued_at")
        expected = {i: [row[column] for column in columns] for i, row in model["adaptations"].items()}
        _require_equal("adaptations", expected, rows)
        _require_equal("events", {i: [list(each) for each in rows] for i, rows in model["events"].items()}, events)
        _require_equal("versions", {i: row["adaptation"] for i, row in model["versions"].items()}, versions)
        _require_equal("tenants", {i: [row["served"], row["waiting"]] for i, row in model["tenants"].items()}, tenants)
        _require_equal("tasks", {i: row["last"] for i, row in model["tasks"].items()}, last)
        _require_equal("datasets", len(model["datasets"]), datasets)


class MirroredTransaction:
    """One transaction in PostgreSQL, paused before its next statement."""

    def __init__(self, session: Session, name: str, arguments: Sequence[Any]) -> None:
        self._session: Session | None = session
        self._name = name
        self._arguments = arguments
        self._value: Any = None
        self._failure: BaseException | None = None
        self._statement: tuple[Any, str, Any] | None = None
        """The statement before which the thread pauses; None once it has ended."""
        self._abandoned = False
        self._resumed, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, args=(session,), daemon=True).start()
        self._paused.acquire()

    def execute(self) -> None:
        """Execute the next statement."""
        if self._statement is None:
            raise Mismatch(f"{self._name}: the model has a statement more than the code")
        self._resume()

    def check_blocked(self) -> None:
        """Check that PostgreSQL would wait for a lock."""
        self._probe(psycopg.errors.LockNotAvailable)

    def check_error(self) -> None:
        """Check that PostgreSQL rejects the next statement."""
        self._probe(psycopg.Error)

    def result(self, value: Any) -> Any:
        """Compare the transaction's result with the model's, and return it with PostgreSQL's leases."""
        if self._statement is not None:
            raise Mismatch(f"{self._name}: the code has a statement more than the model: {self._statement}")
        if self._name != "claim":
            _require_equal(f"result of {self._name}", value, self._value)
            return value
        leases, preempted = value
        claimed, code_preempted = self._value
        seen = [(each.lease.adaptation_id, each.attempt, each.step) for each in claimed]
        _require_equal("claim", [(each.adaptation_id, each.attempt, each.step) for each in leases], seen)
        _require_equal("preempted", preempted, code_preempted)
        return [lease.mirrored_by(each.lease) for lease, each in zip(leases, claimed, strict=True)], preempted

    def commit(self) -> None:
        if self._session is not None:
            self._session.commit()
            self.roll_back()

    def roll_back(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            if self._statement is not None:
                self._abandoned = True
                self._resumed.release()
                self._paused.acquire()
            session.rollback()
            session.close()

    def pause(self, statement: tuple[Any, str, Any]) -> None:
        """Pause the thread of the transaction before a statement."""
        self._statement = statement
        self._paused.release()
        self._resumed.acquire()
        if self._abandoned:
            raise _Abandoned

    def _resume(self) -> None:
        self._resumed.release()
        self._paused.acquire()
        if self._failure is not None:
            raise Mismatch(f"{self._name}: {self._failure}") from self._failure

    def _run(self, session: Session) -> None:
        _current.transaction = self
        try:
            self._value = CODE[self._name](session, *self._arguments)
            session.flush()
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by `_resume`
            self._failure = error
        self._statement = None
        self._paused.release()

    def _probe(self, expected: type[psycopg.Error]) -> None:
        if self._statement is None:
            raise Mismatch(f"{self._name}: the model waits, the code has ended")
        cursor, statement, parameters = self._statement
        connection = cursor.connection
        connection.execute("SAVEPOINT probe")
        connection.execute("SET LOCAL lock_timeout = 20")
        try:
            connection.cursor().execute(statement, parameters)
        except expected:
            pass
        else:
            raise Mismatch(f"{self._name}: PostgreSQL executes what the model does not: {statement}")
        finally:
            connection.execute("ROLLBACK TO SAVEPOINT probe")


class _Abandoned(BaseException):
    """Ends the thread of a transaction that is rolled back."""


_current = threading.local()


def _pause(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
    """Pause before each statement of a transaction; the mirror's own statements run in another thread."""
    transaction: MirroredTransaction | None = getattr(_current, "transaction", None)
    if transaction is not None:
        transaction.pause((cursor, statement, parameters))


def _require_equal(what: str, model: Any, database: Any) -> None:
    if not _equal(model, database):
        raise Mismatch(f"{what}: the model has {model}, PostgreSQL {database}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) and other is not None:
        return abs(one - float(other)) < _TIME_TOLERANCE
    return bool(one == other)


# The code for each transaction of the model.


def _post(session: Session, tenant: str, key: str, new_id: str, task_id: str | None, task: str) -> Any:
    earlier = adaptations.by_idempotency_key(session, tenant, key)
    if earlier is not None:
        return earlier.id, earlier.task_id
    adaptations.usage(session, tenant)
    version: int | None = 1
    if task_id is None:
        task_id = task
        session.add(Task(id=task, tenant_id=tenant, name="task", last_version=1))
        session.flush()
    else:
        version = tasks.take_next_version(session, tenant, task_id)
        if version is None:
            return None
    dataset_id = adaptations.keep_dataset(session, tenant, "hash", [{"input": "a", "output": "b"}], None)
    adaptation = Adaptation(
        id=new_id, tenant_id=tenant, task_id=task_id, task_version=version, dataset_id=dataset_id,
        kind="classification", hyperparameters={}, body_hash="", idempotency_key=key, queued_at=func.now(),
    )  # fmt: skip
    lifecycle.enqueue(session, adaptation)
    return new_id, task_id


def _state_after(change: Callable[[Session, str, str], Adaptation | None]) -> Callable[[Session, str, str], str | None]:
    def state(session: Session, tenant: str, adaptation_id: str) -> str | None:
        row = change(session, tenant, adaptation_id)
        return None if row is None else row.state

    return state


def _claim(
    session: Session, worker: str, slots: int, protected: int, batch: Sequence[tuple[Lease, int]], _tokens: object
) -> Any:
    claimed = claiming.claim(
        session, subspace_ids=[SUBSPACE], worker_id=worker, lease_seconds=LEASE_SECONDS, free_slots=slots,
        protected=protected,
    )  # fmt: skip
    runs_alone = bool(claimed) and (claimed[0].is_retry or any(lease.attempt > 1 for lease, _ in batch))
    preempted = [
        lifecycle.preempt(session, lease.mirrored, step=step, checkpoint=None) for lease, step in batch if runs_alone
    ]
    return claimed, preempted


CODE: dict[str, Callable[..., Any]] = {
    "post": _post,
    "cancel": _state_after(lifecycle.request_cancel),
    "pause": _state_after(lifecycle.request_pause),
    "resume": _state_after(lifecycle.resume),
    "delete": tasks.remove,
    "check_leases": lambda session, leases: lifecycle.check_leases(session, [lease.mirrored for lease in leases]),
    "renew": lambda session, lease, step, event: lifecycle.renew(
        session, lease.mirrored, lease_seconds=LEASE_SECONDS, step=step, steps=3, checkpoint=None,
        event={"step": step} if event else None,
    ),
    "succeed": lambda session, lease: lifecycle.succeed(session, lease.mirrored, _TUNED),
    "fail": lambda session, lease: lifecycle.fail(session, lease.mirrored, _ERROR),
    "cancel_running": lambda session, lease: lifecycle.cancel_running(session, lease.mirrored),
    "release": lambda session, lease, reason, step: lifecycle.release(
        session, lease.mirrored, reason=reason, step=step, checkpoint=None
    ),
    "retry": lambda session, lease: lifecycle.retry(
        session, lease.mirrored, max_attempts=MAX_ATTEMPTS, error=_ERROR
    ),
    "reap": lambda session: [row.adaptation_id for row in lifecycle.reap(session)],
    "expire_leases": lifecycle.expire_leases,
    "claim": _claim,
}  # fmt: skip
