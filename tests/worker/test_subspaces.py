"""A worker tunes adaptations of every subspace that it can load, each in its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

import ipt
from app.db.models import Adaptation, TaskVersion, Worker
from app.db.session import transaction
from app.queue import workers
from app.settings import Settings
from ipt.subspace.manifest import TENSORS_FILE
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.support.drain import STEPS, NewDrainer, run, undisturbed_vector
from tests.support.jobs import Enqueue, Events, Row

pytestmark = pytest.mark.usefixtures("keep_tuned")


@pytest.fixture
def earlier(tiny_backbone_dir: Path, tmp_path: Path) -> Path:
    """The folder of a subspace that was the default of an earlier release."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        decoder = SubspaceDecoder(intrinsic_dim=5, decoder_hidden=16, prompt_length=2, hidden_size=32)
    ipt.save_subspace(tmp_path / "earlier", decoder, ipt.load_backbone(str(tiny_backbone_dir), device="cpu"))
    return tmp_path / "earlier"


def versions(engine: Engine, row: Adaptation) -> TaskVersion:
    with transaction(engine) as session:
        return session.get_one(TaskVersion, (row.task_id, row.task_version))


def test_an_adaptation_interrupted_before_an_upgrade_is_finished_in_its_own_subspace(
    earlier: Path, new_drainer: NewDrainer, engine: Engine, settings: Settings, enqueue: Enqueue, row: Row
) -> None:
    before = ipt.load_subspace(earlier)
    interrupted = enqueue(subspace_id=before.id, hyperparameters=STEPS)
    fresh = enqueue(hyperparameters=STEPS)
    batches: set[tuple[str, ...]] = set()
    run(new_drainer(lambda tuning: batches.add(tuning.job_ids), earlier_subspaces=str(earlier)))
    assert batches == {(interrupted,), (fresh,)}, "jobs of two subspaces share no pass"
    settings_before = settings.model_copy(update={"subspace": str(earlier)})
    for adaptation_id, expected in ((interrupted, settings_before), (fresh, settings)):
        assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
        version = versions(engine, row(adaptation_id))
        assert version.subspace_id == ipt.load_subspace(expected.subspace).id
        undisturbed = undisturbed_vector(expected, STEPS)
        np.testing.assert_allclose(np.asarray(version.vector), undisturbed, rtol=1e-4, atol=1e-5)


def test_two_subspaces_advance_in_turns(earlier: Path, new_drainer: NewDrainer, enqueue: Enqueue) -> None:
    jobs = {enqueue(subspace_id=ipt.load_subspace(earlier).id, hyperparameters=STEPS), enqueue(hyperparameters=STEPS)}
    advanced: list[str] = []
    run(new_drainer(lambda tuning: advanced.extend(tuning.job_ids), earlier_subspaces=str(earlier)))
    assert set(advanced[:2]) == set(advanced[2:4]) == jobs


def test_an_adaptation_waits_for_a_subspace_that_nothing_here_has(
    new_drainer: NewDrainer, enqueue: Enqueue, row: Row
) -> None:
    waiting, fresh = enqueue(subspace_id="sub_elsewhere"), enqueue(hyperparameters=STEPS)
    run(new_drainer())
    assert [row(waiting).state, row(fresh).state] == ["queued", "succeeded"]


def test_an_adaptation_of_a_damaged_subspace_is_handed_back_once(
    earlier: Path, new_drainer: NewDrainer, enqueue: Enqueue, row: Row, events: Events
) -> None:
    waiting = enqueue(subspace_id=ipt.load_subspace(earlier).id, hyperparameters=STEPS)
    fresh = enqueue(hyperparameters=STEPS)
    (earlier / TENSORS_FILE).write_bytes(b"damaged")
    run(new_drainer(earlier_subspaces=str(earlier)))
    assert [row(waiting).state, row(fresh).state] == ["queued", "succeeded"]
    assert row(waiting).attempt == 0
    assert [event.type for event in events(waiting)] == ["queued", "running", "requeued"]
    assert events(waiting)[-1].data["reason"] == "subspace_unusable"


def test_a_worker_announces_every_subspace_that_it_can_load(
    earlier: Path, new_drainer: NewDrainer, engine: Engine, settings: Settings, enqueue: Enqueue
) -> None:
    enqueue(hyperparameters=STEPS)
    run(new_drainer(earlier_subspaces=str(earlier), heartbeat_seconds=0.001))
    before, own = ipt.load_subspace(earlier).id, ipt.load_subspace(settings.subspace).id
    with transaction(engine) as session:
        [worker] = session.query(Worker)
        assert (worker.subspace_id, worker.further_subspace_ids) == (own, [before])
        assert workers.served_subspaces(session) == {own, before}
        assert workers.count_serving(session, before) == 1
        assert workers.count_serving(session, "sub_elsewhere") == 0
