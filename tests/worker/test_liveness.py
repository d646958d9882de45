"""The supervisor replaces a worker that hangs, and keeps a worker that is only slow."""

import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

import ipt
from app.settings import Settings
from ipt.runtime.work_counter import WorkCounter
from tests.support.drain import WatchedModel
from tests.support.jobs import Enqueue, Events, Row
from tests.support.processes import ENDLESS, SHORT, gone, until
from worker.drain import Drainer
from worker.liveness import LivenessFile, LivenessProbe
from worker.supervisor import Supervisor

# A worker needs seconds to import torch, and much longer on a busy machine.
pytestmark = pytest.mark.timeout(900)


def test_a_frozen_worker_is_replaced_and_its_job_continues(
    settings: Settings, enqueue: Enqueue, row: Row, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervisor.SLACK_SECONDS", 4.0)
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
        resumed_at = row(adaptation_id).step
        until(lambda: row(adaptation_id).step > resumed_at)
        assert supervisor.pid not in (frozen, None)
    attempts = [event.data["attempt"] for event in events(adaptation_id) if event.type == "running"]
    assert attempts == [1, 2], "the supervisor killed a worker that was loading or working"


def test_a_loading_worker_touches_its_file_until_it_has_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_long_step_shows_that_it_proceeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.liveness._TOUCH_SECONDS", 0.0)
    counter, file = WorkCounter(), tmp_path / "alive"
    with LivenessFile(file).watch_passes(counter):
        for _ in range(3):
            assert not file.exists()
            counter.advance()
            until(file.exists)
            file.unlink()


def test_a_worker_that_computes_is_silent_for_its_processor_time_only(tmp_path: Path) -> None:
    probe = LivenessProbe(tmp_path / "alive")
    probe.check(1.0, 0.1)
    assert probe.silent_seconds == pytest.approx(0.1), "it shares a processor with nine others"
    probe.check(1.0, 2.0)
    assert probe.silent_seconds == pytest.approx(1.1), "two threads that spin are no more patience"
    probe.check(1.0, 0.0)
    assert probe.silent_seconds == pytest.approx(2.1), "it waits for something"
    (tmp_path / "alive").touch()
    probe.check(1.0, 1.0)
    assert probe.silent_seconds == 0.0


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (-signal.SIGKILL, "was killed by the system (signal 9), probably because memory ran out"),
        (-signal.SIGSEGV, "crashed (signal 11)"),
        (1, "ended with exit status 1"),
    ],
)
def test_the_supervisor_tells_the_next_worker_how_the_last_one_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: int, end: str
) -> None:
    commands: list[list[str]] = []

    class Ended:
        pid, returncode = 1, status

        def __init__(self, command: list[str], **_: object) -> None:
            commands.append(command)

        def wait(self) -> int:
            return status

        def terminate(self) -> None:
            pass

    monkeypatch.setattr("worker.supervisor.subprocess.Popen", Ended)
    monkeypatch.setattr("worker.supervisor.Backoff.record_failure", lambda _: 0.05)
    assert settings.database_url is not None
    with Supervisor(settings, settings.database_url):
        until(lambda: len(commands) >= 2)
    assert "--predecessor-end" not in commands[0]
    assert commands[1][-2:] == ["--predecessor-end", end]


def test_a_finished_step_touches_the_file_and_a_hung_step_does_not(
    engine: Engine, settings: Settings, enqueue: Enqueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.liveness._TOUCH_SECONDS", 0.0)
    file = tmp_path / "alive"
    enqueue(hyperparameters=SHORT)
    hangs, released = threading.Event(), threading.Event()
    touched_at: list[int] = []

    def before_step(_: ipt.TuningEngine) -> None:
        touched_at.append(file.stat().st_mtime_ns)
        if len(touched_at) == 3:
            hangs.set()
            assert released.wait(60)

    drainer = Drainer(engine, WatchedModel(settings, before_step), settings, "worker", LivenessFile(file))
    thread = threading.Thread(target=drainer.drain, args=(threading.Event(),), daemon=True)
    thread.start()
    assert hangs.wait(60)
    assert touched_at[0] < touched_at[1] < touched_at[2], "a finished step does not touch the file"
    probe = LivenessProbe(file)
    for _ in range(5):
        time.sleep(0.1)
        probe.check(0.1)
    assert probe.silent_seconds == pytest.approx(0.5)
    released.set()
    thread.join(60)
    probe.check(0.1)
    assert probe.silent_seconds == 0.0
