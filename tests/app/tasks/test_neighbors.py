"""Neighbor search through the index finds what exact search finds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.db.models import INDEXED_DIM, Adaptation, Dataset, SubspaceRow, Task, TaskVersion, Tenant
from app.db.session import transaction
from app.tasks import neighbors

TASKS = 150
Neighbors = Sequence[tuple[Task, int, float]]


@pytest.fixture
def stored(engine: Engine) -> None:
    """Store tasks `0`, `1`, … in clusters of ten; every third is tenant `a`'s, the others are `b`'s.

    Every fifth was tuned twice. Every fourth has one of three initial vectors, of which the first is the zero vector.
    """
    rng = np.random.default_rng(0)
    with transaction(engine) as session:
        size = {"intrinsic_dim": INDEXED_DIM, "prompt_length": 2, "hidden_size": 8}
        session.add_all([SubspaceRow(id="sub", manifest={}, **size), Tenant(id="a"), Tenant(id="b")])
        session.flush()
        for tenant in "ab":
            session.add(Dataset(id=tenant, tenant_id=tenant, content_hash="", examples=[]))
        session.flush()
        centres = rng.standard_normal((TASKS // 10, INDEXED_DIM))
        starts = np.stack([np.zeros(INDEXED_DIM), centres[0], centres[1]])
        for number in range(TASKS):
            tenant = "b" if number % 3 else "a"
            session.add(Task(id=str(number), tenant_id=tenant, name="", last_version=2))
            session.flush()
            if number % 5 == 0:
                add_version(session, tenant, number, 1, rng.standard_normal(INDEXED_DIM))
            start = number // 4 % 3 if number % 4 == 3 else None
            noise = 0.2 * rng.standard_normal(INDEXED_DIM)
            vector = centres[number // 10] + noise if start is None else starts[start]
            add_version(session, tenant, number, 2, vector, start)


def add_version(
    session: Session, tenant: str, number: int, version: int, vector: NDArray[Any], start: int | None = None
) -> None:
    columns = {"tenant_id": tenant, "task_id": str(number), "subspace_id": "sub", "kind": "classification"}
    adaptation_id = f"{number}-{version}"
    session.add(
        Adaptation(
            id=adaptation_id, task_version=version, dataset_id=tenant, hyperparameters={}, body_hash="",
            state="succeeded", **columns,
        )
    )  # fmt: skip
    session.flush()
    session.add(
        TaskVersion(version=version, adaptation_id=adaptation_id, labels=[], vector=vector, start=start, **columns)
    )


def find(session: Session, number: int, limit: int = 5) -> Neighbors:
    version = session.get_one(TaskVersion, (str(number), 2))
    return neighbors.neighbors(session, version.tenant_id, version, limit)


def rounded(nearest: Neighbors) -> list[tuple[str, int, float]]:
    return [(task.id, version, round(similarity, 5)) for task, version, similarity in nearest]


@pytest.mark.usefixtures("stored")
def test_the_index_finds_what_exact_search_finds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [number for number in range(0, TASKS, 7) if number % 12 != 3]  # the zero vector has no neighbors
    with transaction(engine) as session:
        exact = [rounded(find(session, number)) for number in numbers]
    monkeypatch.setattr(neighbors, "EXACT_UP_TO", 1)
    with transaction(engine) as session:
        approximate = [rounded(find(session, number)) for number in numbers]
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    with transaction(engine) as session:
        scans = text("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'ix_task_versions_vector'")
        assert session.execute(scans).scalar_one() == len(numbers)
    hits = sum(len(set(left) & set(right)) for left, right in zip(exact, approximate, strict=True))
    assert hits >= 0.95 * 5 * len(numbers)
    for number, nearest in zip(numbers, approximate, strict=True):
        assert [similarity for *_, similarity in nearest] == sorted((s for *_, s in nearest), reverse=True)
        assert {(int(task_id) % 3 == 0, version) for task_id, version, _ in nearest} == {(number % 3 == 0, 2)}


@pytest.mark.usefixtures("stored")
def test_exact_search_replaces_an_index_scan_that_ends_early(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction(engine) as session:
        exact = rounded(find(session, 0, limit=30))
    monkeypatch.setattr(neighbors, "EXACT_UP_TO", 1)
    with transaction(engine) as session:
        session.execute(text("SET LOCAL hnsw.max_scan_tuples = 1"))
        assert rounded(find(session, 0, limit=30)) == exact
    assert len(exact) == 30


@pytest.mark.usefixtures("stored")
def test_older_versions_are_ignored_even_if_many_are_nearer(engine: Engine) -> None:
    with transaction(engine) as session:
        nearest, *_ = rounded(find(session, 0))
        version_2 = session.get_one(TaskVersion, ("0", 2))
        other = next(number for number in range(3, TASKS, 3) if str(number) != nearest[0])
        for version in range(3, 30):
            add_version(session, "a", other, version, np.asarray(version_2.vector))
        add_version(session, "a", other, 30, -np.asarray(version_2.vector))
        session.flush()
        assert rounded(find(session, 0, limit=1)) == [nearest]
