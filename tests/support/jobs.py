"""Fixtures that queue adaptations and read their rows and events."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from app.db.ids import new_id
from app.db.models import Adaptation, AdaptationEvent, Dataset, SubspaceRow, Task, Tenant
from app.db.session import transaction
from app.queue import lifecycle
from app.settings import DEFAULT_TENANT, Settings

EXAMPLES = [
    {"input": text, "output": label}
    for label, texts in {
        "billing": ["i was charged twice", "refund my money please", "the invoice is wrong", "card was charged"],
        "login": ["password does not work", "i can not login", "account is lost", "login screen is broken"],
        "praise": ["i love the app", "great staff and fine place", "good phone", "happy with the new screen"],
    }.items()
    for text in texts
]

Enqueue = Callable[..., str]
Row = Callable[[str], Adaptation]
Events = Callable[[str], list[AdaptationEvent]]


@pytest.fixture
def settings(database_url: str, tiny_backbone_dir: Path, tiny_subspace_dir: Path) -> Settings:
    """Settings of a worker with the tiny backbone, the tiny subspace and this test's database."""
    return Settings(
        database_url=database_url,
        backbone=str(tiny_backbone_dir),
        subspace=str(tiny_subspace_dir),
        device="cpu",
        checkpoint_every_steps=5,
        poll_seconds=0.05,
        heartbeat_seconds=0.2,
    )


@pytest.fixture
def enqueue(engine: Engine) -> Enqueue:
    """Queue an adaptation as the API does, and return its id."""

    def enqueue(
        *,
        tenant: str = DEFAULT_TENANT,
        examples: list[dict[str, str]] | None = None,
        kind: str = "classification",
        subspace_id: str | None = None,
        hyperparameters: dict[str, Any] | None = None,
        **columns: Any,
    ) -> str:
        with transaction(engine) as session:
            if session.get(Tenant, tenant) is None:
                session.add(Tenant(id=tenant))
            if subspace_id is not None and session.get(SubspaceRow, subspace_id) is None:
                session.add(SubspaceRow(id=subspace_id, intrinsic_dim=4, prompt_length=2, hidden_size=8, manifest={}))
            session.flush()
            dataset = Dataset(
                id=new_id("dat"),
                tenant_id=tenant,
                content_hash=new_id("hash"),
                examples=EXAMPLES if examples is None else examples,
            )
            task = Task(id=new_id("tsk"), tenant_id=tenant, name="tickets", last_version=1)
            session.add_all([dataset, task])
            session.flush()
            adaptation = Adaptation(
                id=new_id("adp"),
                tenant_id=tenant,
                task_id=task.id,
                task_version=1,
                dataset_id=dataset.id,
                subspace_id=subspace_id,
                kind=kind,
                hyperparameters=hyperparameters or {},
                body_hash="",
                **columns,
            )
            lifecycle.enqueue(session, adaptation)
        return adaptation.id

    return enqueue


@pytest.fixture
def row(engine: Engine) -> Row:
    """Read an adaptation's current row."""

    def row(adaptation_id: str) -> Adaptation:
        with transaction(engine) as session:
            return session.get_one(Adaptation, adaptation_id)

    return row


@pytest.fixture
def events(engine: Engine) -> Events:
    """Read an adaptation's events, in order."""

    def events(adaptation_id: str) -> list[AdaptationEvent]:
        query = select(AdaptationEvent).where(AdaptationEvent.adaptation_id == adaptation_id)
        with transaction(engine) as session:
            return list(session.scalars(query.order_by(AdaptationEvent.seq)))

    return events
