"""Drainers whose engine steps a test can watch, and the vectors that they store."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

import ipt
from app.db.ids import new_id
from app.db.models import Adaptation, TaskVersion
from app.db.session import transaction
from app.settings import Settings
from tests.support.jobs import EXAMPLES
from worker.drain import Drainer
from worker.lazy_model import LazyModel

BeforeStep = Callable[[ipt.TuningEngine], None]
NewDrainer = Callable[..., Drainer]

STEPS = {"steps": 24, "batch_size": 8, "learning_rate": 0.05}


class WatchedEngine(ipt.TuningEngine):
    """The real engine; it calls the test before each step."""

    before_step: BeforeStep

    def step(self) -> list[ipt.Progress]:
        self.before_step(self)
        return super().step()


class WatchedModel(LazyModel):
    def __init__(self, settings: Settings, before_step: BeforeStep) -> None:
        super().__init__(settings)
        self._before_step = before_step

    def new_engine(self, subspace_id: str) -> ipt.TuningEngine:
        engine = WatchedEngine(self.load().backbone_of(subspace_id), self.subspace(subspace_id))
        engine.before_step = self._before_step
        return engine


@pytest.fixture
def new_drainer(engine: Engine, settings: Settings) -> NewDrainer:
    """Create a drainer that calls `before_step` before each engine step, with another database and changed settings."""

    def new_drainer(
        before_step: BeforeStep = lambda _: None, database: Engine | None = None, **changes: Any
    ) -> Drainer:
        changed = settings.model_copy(update=changes)
        return Drainer(database or engine, WatchedModel(changed, before_step), changed, new_id("worker"))

    return new_drainer


def run(drainer: Drainer, stop: threading.Event | None = None) -> None:
    """Drain in a thread, so that a drainer that never returns fails the test."""
    failure: list[BaseException] = []

    def work() -> None:
        try:
            drainer.drain(stop or threading.Event())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "the drain loop does not end"
    if failure:
        raise failure[0]


def drain_until_succeeded(drainer: Drainer, state: Callable[[], str]) -> None:
    """Drain until the adaptation with this state has succeeded, which first has to lose the lease of another worker."""
    deadline = time.monotonic() + 60
    while state() != "succeeded":
        assert time.monotonic() < deadline, "no other worker takes over"
        run(drainer)
        time.sleep(0.1)


def stored_vector(engine: Engine, row: Adaptation) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector of the task version that an adaptation stored."""
    with transaction(engine) as session:
        return np.asarray(session.get_one(TaskVersion, (row.task_id, row.task_version)).vector, dtype=np.float32)


def undisturbed_vector(settings: Settings, hyperparameters: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector that an undisturbed run with these hyperparameters gives."""
    [(backbone, subspace)] = LazyModel(settings).load().pairs
    task = ipt.adapt(
        backbone,
        subspace,
        [ipt.Example(**example) for example in EXAMPLES],
        kind="classification",
        hyperparameters=ipt.Hyperparameters(**hyperparameters),
    )
    assert task.head.vector.any(), "an untuned vector would compare nothing"
    return task.head.vector
