"""Store millions of tuned tasks and a queue of adaptations, as copies of one task that was really tuned."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sqlalchemy import Engine, Table, text

from app.cli.progress import Update
from app.db.ids import new_id
from app.db.models import Adaptation, Dataset, Task, TaskVersion, Tenant
from app.db.session import transaction
from app.settings import DEFAULT_TENANT
from benchmarks.machine import ROOT
from benchmarks.scale.many_rows import Bytes, copy_row, ids, names, numbers, texts, vectors

SHARES = {DEFAULT_TENANT: 0.89, "tenth_1": 0.1, "percent": 0.01}
"""Each tenant's share of the tasks; all names have the same length."""
SECOND_VERSIONS = 0.1
UNMOVED = 0.2
"""Share of the vectors that equal an initial vector, as if tuning gained nothing."""
TASKS_OF_A_CENTRE = 500
CENTRE_NOISE, TASK_NOISE = 0.15, 0.1
QUEUED_STEPS = 4
"""Few, so that some adaptations finish while others are queued."""
MILLISECOND = 1000
_BLOCK = 50_000


@dataclass(frozen=True)
class Stored:
    """The rows of task_versions that `store` added; every array is indexed by row.

    The first versions of all tasks come before the second versions; `newest` marks each task's newest version.
    """

    task_ids: list[str]
    adaptation_ids: list[str]
    tenant: NDArray[np.str_]
    newest: NDArray[np.bool_]
    vectors: NDArray[np.float32]

    def of(self, tenant: str) -> NDArray[np.int64]:
        """Return the rows of a tenant's tasks: only newest versions, oldest task first."""
        return np.flatnonzero(self.newest & (self.tenant == tenant))


def draw_vectors(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Draw [count, D] vectors: groups around the shipped subspace's training tasks, and initial vectors.

    The second array holds the index of the initial vector, or -1 for a vector of a group.
    """
    subspace = load_file(ROOT / "ipt" / "subspace" / "default" / "subspace.safetensors")
    trained, starts = subspace["task_vectors"].astype(np.float32), subspace["initial_vectors"].astype(np.float32)

    def noise(rows: int, scale: float) -> NDArray[np.float32]:
        return scale * rng.standard_normal((rows, trained.shape[1]), dtype=np.float32)

    centres = trained[rng.integers(0, len(trained), max(1, count // TASKS_OF_A_CENTRE))]
    centres = centres + noise(len(centres), CENTRE_NOISE)
    drawn = np.empty((count, trained.shape[1]), dtype=np.float32)
    at = np.where(rng.random(count) < UNMOVED, rng.integers(0, len(starts), count), -1).astype(np.int16)
    for first in range(0, count, _BLOCK):
        block = drawn[first : first + _BLOCK]
        block[:] = centres[rng.integers(0, len(centres), len(block))] + noise(len(block), TASK_NOISE)
        of_block = at[first : first + len(block)]
        block[of_block >= 0] = starts[of_block[of_block >= 0]]
    return drawn, at


def store(engine: Engine, task_id: str, count: int, show: Update) -> Stored:
    """Add `count` copies of a tuned task, without the index of vectors, which `build_index` builds."""
    rng = np.random.default_rng(0)
    second = int(count * SECOND_VERSIONS)
    tasks = count - second
    tenant_of_task = np.asarray(list(SHARES))[rng.choice(len(SHARES), tasks, p=list(SHARES.values()))]
    tenant = np.concatenate([tenant_of_task, tenant_of_task[:second]])
    task_bytes = ids("tsk", tasks, rng)
    task_bytes = np.concatenate([task_bytes, task_bytes[:second]])
    version = np.repeat([1, 2], [tasks, second])
    newest = np.arange(count) >= second
    adaptation_bytes = ids("adp", count, rng)
    drawn, starts = draw_vectors(count, rng)
    stored = Stored(names(task_bytes), names(adaptation_bytes), tenant, newest, drawn)
    with transaction(engine) as session:
        # The copies get start numbers of their own.
        session.execute(text("UPDATE task_versions SET start = NULL WHERE task_id = :id"), {"id": task_id})
        session.add_all([Tenant(id=name) for name in SHARES if session.get(Tenant, name) is None])
        adaptation_id = session.scalars(
            text("SELECT adaptation_id FROM task_versions WHERE task_id = :id"), {"id": task_id}
        ).one()
    _vector_index().drop(engine)
    with _connect(engine) as connection:
        for first in range(0, count, _BLOCK):
            rows = slice(first, min(first + _BLOCK, count))
            changes = {
                "id": task_bytes[rows],
                "task_id": task_bytes[rows],
                "adaptation_id": adaptation_bytes[rows],
                "tenant_id": texts(list(tenant[rows])),
                "created_at": _times(rows, count),
                "task_version": numbers(version[rows], 4),
                "version": numbers(version[rows], 4),
                "vector": vectors(stored.vectors[rows]),
            }
            new_tasks = slice(0, max(0, min(rows.stop, tasks) - rows.start))
            for_tasks = {name: changes[name][new_tasks] for name in ("id", "tenant_id", "created_at")}
            if len(for_tasks["id"]):
                copy_row(connection, "tasks", ("id", task_id), for_tasks)
            for_adaptations = {
                name: changes[name] for name in ("task_id", "tenant_id", "created_at", "task_version")
            } | {"id": changes["adaptation_id"]}
            copy_row(connection, "adaptations", ("id", adaptation_id), for_adaptations)
            of_versions = ("task_id", "version", "tenant_id", "adaptation_id", "vector", "created_at")
            copy_row(connection, "task_versions", ("task_id", task_id), {name: changes[name] for name in of_versions})
            connection.commit()
            show("task versions", rows.stop, count, over=rows.stop == count)
        unmoved = np.flatnonzero(starts >= 0)
        note_starts(connection, [(stored.task_ids[row], int(version[row]), int(starts[row])) for row in unmoved])
    return stored


def note_starts(connection: psycopg.Connection[object], unmoved: Sequence[tuple[str, int, int]]) -> None:
    """Record the initial vector that unmoved task versions equal; rows are (task id, version, its number)."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE unmoved (task_id text, version int, start bigint) ON COMMIT DROP")
        with cursor.copy("COPY unmoved FROM STDIN") as copy:
            for row in unmoved:
                copy.write_row(row)
        cursor.execute(
            "UPDATE task_versions SET start = unmoved.start FROM unmoved"
            " WHERE (task_versions.task_id, task_versions.version) = (unmoved.task_id, unmoved.version)"
        )
    connection.commit()


def build_index(engine: Engine, show: Update) -> None:
    """Build the index of vectors as the migration does, with the memory and workers that an operator would set."""
    what = "index of their vectors"
    done = threading.Event()

    def watch() -> None:
        query = text("SELECT blocks_done, blocks_total FROM pg_stat_progress_create_index")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not done.wait(1):
                for read, total in connection.execute(query):
                    show(what, read, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL maintenance_work_mem = '2GB'"))
            connection.execute(
                text(f"SET LOCAL max_parallel_maintenance_workers = {max(1, (os.cpu_count() or 2) - 1)}")
            )
            _vector_index().create(connection)
    finally:
        done.set()
        watcher.join()
    show(what, 1, 1, over=True)
    tidy(engine)


def queue(engine: Engine, tenants: Sequence[str], count: int, show: Update) -> None:
    """Queue `count` adaptations, equally many for each tenant, and add missing tenants.

    Args:
        tenants: names of the same length.
    """
    rng = np.random.default_rng(1)
    task_id, adaptation_id, owner = new_id("tsk"), new_id("adp"), tenants[0]
    with transaction(engine) as session:
        session.add_all([Tenant(id=name) for name in tenants if session.get(Tenant, name) is None])
        session.flush()
        [example] = session.scalars(text("SELECT id FROM datasets LIMIT 1"))
        done = session.scalars(text("SELECT id FROM adaptations WHERE dataset_id = :id LIMIT 1"), {"id": example}).one()
        tuned = session.get_one(Adaptation, done)
        dataset = Dataset(
            id=new_id("dat"),
            tenant_id=owner,
            content_hash=new_id("hash"),
            examples=session.get_one(Dataset, example).examples,
        )
        session.add_all([dataset, Task(id=task_id, tenant_id=owner, name="queued", last_version=1)])
        session.flush()
        session.add(
            Adaptation(
                id=adaptation_id, tenant_id=owner, task_id=task_id, task_version=1, dataset_id=dataset.id,
                kind=tuned.kind, hyperparameters=tuned.hyperparameters | {"steps": QUEUED_STEPS}, steps=QUEUED_STEPS,
                body_hash=tuned.body_hash,
            )
        )  # fmt: skip
    of_tenants = texts([tenants[i % len(tenants)] for i in range(count)])
    tasks, adaptations = ids("tsk", count, rng), ids("adp", count, rng)
    with _connect(engine) as connection:
        for first in range(0, count, _BLOCK):
            rows = slice(first, min(first + _BLOCK, count))
            common = {"tenant_id": of_tenants[rows], "created_at": _times(rows, count)}
            copy_row(connection, "tasks", ("id", task_id), common | {"id": tasks[rows]})
            own = {"id": adaptations[rows], "task_id": tasks[rows], "queued_at": common["created_at"]}
            copy_row(connection, "adaptations", ("id", adaptation_id), common | own)
            connection.commit()
            show("queued adaptations", rows.stop, count, over=rows.stop == count)
        # A posted adaptation has a first event, and a trigger sets `waiting_since`; copied rows fire no trigger.
        connection.execute(
            "INSERT INTO adaptation_events (adaptation_id, seq, type) SELECT id, 1, 'queued' FROM adaptations"
            " WHERE state = 'queued' ON CONFLICT DO NOTHING"
        )
        connection.execute("UPDATE tenants SET waiting_since = now() WHERE id = ANY(%s)", (list(tenants),))
    tidy(engine)


def empty_queue(engine: Engine) -> None:
    """Delete all queued adaptations with their tasks."""
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM tasks WHERE id IN (SELECT task_id FROM adaptations WHERE state = 'queued')")
        )


def tidy(engine: Engine) -> None:
    """Vacuum and analyze now, which PostgreSQL does by itself some time after a change of this size."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _times(rows: slice, count: int) -> Bytes:
    """Return times one millisecond apart, the last of which is now, in microseconds since 2000."""
    now = int(np.datetime64("now", "us").astype(np.int64) - np.datetime64("2000-01-01", "us").astype(np.int64))
    return numbers(now - MILLISECOND * (count - np.arange(rows.start, rows.stop)), 8)


def _connect(engine: Engine) -> psycopg.Connection[object]:
    return psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(hide_password=False))


def _vector_index() -> object:
    table = TaskVersion.__table__
    assert isinstance(table, Table)
    return next(index for index in table.indexes if index.name == "ix_task_versions_vector")
