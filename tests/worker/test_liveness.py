"""A worker that hangs is told from one that is only slow, and replaced."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine

from app.settings import Settings
from tests.support.drain import WatchedModel
from tests.support.jobs import Enqueue
from tests.support.processes import ENDLESS, SHORT, Events, Row, gone, until
from worker.drain import Drainer
from worker.liveness import LivenessFile, LivenessProbe
from worker.supervisor import Supervisor

# A worker needs seconds to import torch, and many more on a machine that has other things to do.
pytestmark = pytest.mark.timeout(900)


def test_a_frozen_worker_is_replaced_and_what_it_did_goes_on(
    settings: Settings, enqueue: Enqueue, row: Row, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervisor._SLACK_SECONDS", 4.0)
    settings = settings.model_copy(update={"lease_seconds": 2.0})
    assert settings.database_url is not None
    adaptation_id = enqueue(hyperparameters=ENDLESS)
    with Supervisor(settings, settings.database_url) as supervisor:
        until(lambda: row(adaptation_id).checkpoint)
        frozen = supervisor.pid
        assert frozen is not None
        psutil.Process(frozen).send_signal(signal.SIGSTOP)
        until(lambda: gone(frozen))
        until(lambda: row(adaptation_id).attempt == 2 and row(adaptation_id).state == "running")
        went_on_at = row(adaptation_id).step
        until(lambda: row(adaptation_id).step > went_on_at)
        assert supervisor.pid not in (frozen, None)
    begun = [event.data["attempt"] for event in events(adaptation_id) if event.type == "running"]
    assert begun == [1, 2], "it was not taken for hung while it loaded, or worked"


def test_a_worker_that_loads_gives_signs_for_as_long_as_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.liveness._TOUCH_SECONDS", 0.01)
    file = tmp_path / "alive"
    probe = LivenessProbe(file)
    probe.check(5.0)
    assert (probe.started, probe.silent_seconds) == (False, 5.0)
    with LivenessFile(file).keep_touching():
        for _ in range(3):
            time.sleep(0.1)
            probe.check(5.0)
            assert (probe.started, probe.silent_seconds) == (True, 0.0)
    probe.check(5.0)
    probe.check(5.0)
    probe.check(5.0)
    assert probe.started
    assert probe.silent_seconds >= 10.0


def test_a_step_that_hangs_gives_no_sign_and_one_that_ends_does(
    engine: Engine, settings: Settings, enqueue: Enqueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.liveness._TOUCH_SECONDS", 0.0)
    file = tmp_path / "alive"
    enqueue(hyperparameters=SHORT)
    hangs, goes_on = threading.Event(), threading.Event()
    steps: list[int] = []

    def before_step(_: Any) -> None:
        steps.append(file.stat().st_mtime_ns)
        if len(steps) == 3:
            hangs.set()
            assert goes_on.wait(60)

    liveness = LivenessFile(file)
    drainer = Drainer(engine, WatchedModel(settings, before_step), settings, "worker", liveness)
    thread = threading.Thread(target=drainer.drain, args=(threading.Event(),), daemon=True)
    thread.start()
    assert hangs.wait(60)
    assert steps[0] < steps[1] < steps[2], "each step that ends is a sign of life"
    probe = LivenessProbe(file)
    for _ in range(5):
        time.sleep(0.1)
        probe.check(0.1)
    assert probe.silent_seconds == pytest.approx(0.5)
    goes_on.set()
    thread.join(60)
    probe.check(0.1)
    assert probe.silent_seconds == 0.0
