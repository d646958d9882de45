"""Celery's main process replaces a pool process that hangs, or whose periodic thread has died."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.settings import Settings
from tests.support.processes import until
from worker.celery_app import kill_hung
from worker.celery_pool import LIVENESS_FILE, PoolProcess
from worker.liveness import HangDetector


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("worker.liveness._TOUCH_SECONDS", 0.0)
    monkeypatch.setattr("worker.celery_pool._TOUCH_SECONDS", 0.01)
    monkeypatch.setenv(LIVENESS_FILE, str(tmp_path / "alive"))
    return tmp_path / "alive"


@contextmanager
def running(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def test_celerys_main_process_imports_no_torch() -> None:
    script = "import sys, worker.celery_app; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"IPT_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def is_touched(file: Path) -> bool:
    """Return whether the file is touched within a second from now on."""
    file.unlink(missing_ok=True)
    return any(time.sleep(0.02) or file.exists() for _ in range(50))


def test_only_a_process_that_stops_touching_its_file_is_killed(file: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    worker, stopping = SimpleNamespace(pool=None), threading.Event()
    detector = HangDetector(file, max_silent_seconds=1.0)
    try:
        with running(lambda: kill_hung(worker, detector, stopping, 0.05)):
            # As Celery does: it starts the pool, and replaces a process that has ended.
            worker.pool = SimpleNamespace(info={"processes": [processes[0].pid]})
            assert not any(touch_and_wait(file) or processes[0].poll() for _ in range(60))
            until(lambda: processes[0].poll() == -signal.SIGKILL)
            worker.pool.info["processes"] = [processes[1].pid]
            assert not any(touch_and_wait(file) or processes[1].poll() for _ in range(60))
            stopping.set()
    finally:
        stopping.set()
        for process in processes:
            process.kill()
            process.wait()


def touch_and_wait(file: Path) -> None:
    file.touch()
    time.sleep(0.05)


def test_the_periodic_thread_touches_the_file_of_an_idle_process_until_it_ends(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = PoolProcess(Settings(reap_seconds=60))
    drained = threading.Event()
    monkeypatch.setattr(process, "drain", drained.set)
    with running(process._wake_periodically):
        until(drained.is_set)
        assert is_touched(file), "an idle process would be replaced"
        process.stop()
    assert not is_touched(file)


def test_a_hung_drain_of_another_thread_keeps_the_periodic_thread_from_touching(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = PoolProcess(Settings(reap_seconds=60))
    process.__dict__["_drainer"] = SimpleNamespace(drain=lambda _: None, sign_off=lambda: None)
    with process._draining:
        thread = threading.Thread(target=process._wake_periodically, daemon=True)
        thread.start()
        assert not is_touched(file)
    assert is_touched(file)
    process.stop()
    thread.join(30)
