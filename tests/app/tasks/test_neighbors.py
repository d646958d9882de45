"""Similar tasks where there are too many to compare each: found by the index, as exact search finds them."""

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
Found = Sequence[tuple[Task, int, float]]


@pytest.fixture
def stored(engine: Engine) -> None:
    """Tasks `0`, `1`, … in groups of ten, every third of tenant `a`, the others of `b`; each fifth tuned twice.

    Each fourth stands at one of three starts, of which the first is the vector of zeros.
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
    made = {"tenant_id": tenant, "task_id": str(number), "subspace_id": "sub", "kind": "classification"}
    adaptation_id = f"{number}-{version}"
    session.add(
        Adaptation(
            id=adaptation_id, task_version=version, dataset_id=tenant, hyperparameters={}, body_hash="",
            state="succeeded", **made,
        )
    )  # fmt: skip
    session.flush()
    session.add(
        TaskVersion(version=version, adaptation_id=adaptation_id, labels=[], vector=vector, start=start, **made)
    )


def ask(session: Session, number: int, limit: int = 5) -> Found:
    own = session.get_one(TaskVersion, (str(number), 2))
    return neighbors.neighbors(session, own.tenant_id, own, limit)


def seen(found: Found) -> list[tuple[str, int, float]]:
    return [(task.id, version, round(similarity, 5)) for task, version, similarity in found]


@pytest.mark.usefixtures("stored")
def test_the_index_finds_what_exact_search_finds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [number for number in range(0, TASKS, 7) if number % 12 != 3]  # a vector of zeros is near nothing
    with transaction(engine) as session:
        exact = [seen(ask(session, number)) for number in numbers]
    monkeypatch.setattr(neighbors, "EXACT_UP_TO", 1)
    with transaction(engine) as session:
        found = [seen(ask(session, number)) for number in numbers]
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    with transaction(engine) as session:
        scans = text("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'ix_task_versions_vector'")
        assert session.execute(scans).scalar_one() == len(numbers)
    hits = sum(len(set(one) & set(other)) for one, other in zip(exact, found, strict=True))
    assert hits >= 0.95 * 5 * len(numbers)
    for number, one in zip(numbers, found, strict=True):
        assert [similarity for *_, similarity in one] == sorted((s for *_, s in one), reverse=True)
        assert {(int(task_id) % 3 == 0, version) for task_id, version, _ in one} == {(number % 3 == 0, 2)}


@pytest.mark.usefixtures("stored")
def test_what_the_index_gives_up_on_is_found_all_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction(engine) as session:
        exact = seen(ask(session, 0, limit=30))
    monkeypatch.setattr(neighbors, "EXACT_UP_TO", 1)
    with transaction(engine) as session:
        session.execute(text("SET LOCAL hnsw.max_scan_tuples = 1"))
        assert seen(ask(session, 0, limit=30)) == exact
    assert len(exact) == 30


@pytest.mark.usefixtures("stored")
def test_older_versions_are_passed_over_however_many_are_nearer(engine: Engine) -> None:
    with transaction(engine) as session:
        nearest, *_ = seen(ask(session, 0))
        own = session.get_one(TaskVersion, ("0", 2))
        other = next(number for number in range(3, TASKS, 3) if str(number) != nearest[0])
        for version in range(3, 30):
            add_version(session, "a", other, version, np.asarray(own.vector))
        add_version(session, "a", other, 30, -np.asarray(own.vector))
        session.flush()
        assert seen(ask(session, 0, limit=1)) == [nearest]
