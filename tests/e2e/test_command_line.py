"""Commands against a real `ipt serve` in a child process, on the tiny backbone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

import httpx
import psutil
import pytest

from app.cli.client import ServiceClient
from app.cli.output import CliError
from app.cli.root import run
from app.cli.service_process import running_service
from tests.support.processes import until

# Several of these tests start a service, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(400)

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny(tiny_backbone_dir: Path, tiny_subspace_dir: Path) -> dict[str, str]:
    """Environment variables of a service on the tiny backbone."""
    settings = {"IPT_BACKBONE": str(tiny_backbone_dir), "IPT_SUBSPACE": str(tiny_subspace_dir), "IPT_DEVICE": "cpu"}
    return os.environ | settings


@pytest.fixture(scope="module")
def service(tiny: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running service."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder / "log", tiny | {"IPT_DATA_DIR": str(folder / "data")}) as running:
        yield running.url


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset") / "colours.csv"
    rows = [
        f'"{word}, number {number}",{label}' for number in range(6) for word, label in (("red", "r"), ("blue", "b"))
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def task(service: str, dataset: Path) -> str:
    """The id of an adapted task with the name 'colours'."""
    with ServiceClient(service) as client:
        rows = [{"input": f"{word} {n}", "output": word} for n in range(6) for word in ("red", "blue")]
        adaptation = client.wait(client.create_adaptation("colours", rows)["id"])
    assert adaptation["state"] == "succeeded"
    return str(adaptation["task_id"])


def test_adapt_waits_and_prints_the_score_and_the_baselines(
    service: str, dataset: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tiny backbone finishes tuning within the usual polling interval.
    monkeypatch.setattr(ServiceClient, "wait", partialmethod(ServiceClient.wait, poll_seconds=0.01))
    assert run(["adapt", str(dataset), "--name", "by file", "--url", service]) == 0
    printed = capsys.readouterr()
    assert re.search(r"succeeded after \d+ of \d+ steps", printed.out)
    assert "before tuning" in printed.out
    assert "tuning" in printed.err


def test_adapt_as_json_prints_only_the_adaptation(service: str, dataset: Path, capsys: Captured) -> None:
    assert run(["adapt", str(dataset), "--json", "--url", service]) == 0
    adaptation = json.loads(capsys.readouterr().out)
    assert adaptation["object"] == "adaptation"
    assert adaptation["state"] == "succeeded"
    assert 0 <= adaptation["metrics"]["score"] <= 1


def test_adapt_without_waiting_only_queues(service: str, dataset: Path, capsys: Captured) -> None:
    assert run(["adapt", str(dataset), "--no-wait", "--json", "--url", service]) == 0
    queued = json.loads(capsys.readouterr().out)
    assert queued["state"] in ("queued", "running")
    with ServiceClient(service) as client:
        assert client.wait(queued["id"])["state"] == "succeeded"


def test_predict_takes_a_tasks_id_or_name(service: str, task: str, capsys: Captured) -> None:
    answers = []
    for name in (task, "colours"):
        assert run(["predict", name, "red", "blue", "--json", "--url", service]) == 0
        answers.append(json.loads(capsys.readouterr().out)["predictions"])
    assert answers[0] == answers[1]
    assert [set(answer["scores"]) for answer in answers[0]] == [{"red", "blue"}] * 2
    assert run(["predict", task, "some red text", "--url", service]) == 0
    assert "some red text" in capsys.readouterr().out


def test_predict_reports_which_task_of_a_name_it_uses(service: str, dataset: Path, capsys: Captured) -> None:
    for _ in range(2):
        assert run(["adapt", str(dataset), "--name", "twice", "--json", "--url", service]) == 0
        newest = json.loads(capsys.readouterr().out)["task_id"]
    assert run(["predict", "twice", "red", "--json", "--url", service]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"2 tasks are named 'twice': using {newest}")
    assert json.loads(printed.out)["task_id"] == newest


def test_predict_splits_many_lines_of_standard_input_over_several_requests(service: str, task: str) -> None:
    texts = "\n\n".join(f"text {number}" for number in range(130))
    result = subprocess.run(
        [sys.executable, "-m", "app.cli", "predict", task, "--json", "--url", service],
        input=texts,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["predictions"]) == 130


def test_tasks_lists_all_tasks(service: str, task: str, capsys: Captured) -> None:
    assert run(["tasks", "--json", "--url", service]) == 0
    listed = json.loads(capsys.readouterr().out)["data"]
    assert task in [entry["id"] for entry in listed]
    assert run(["tasks", "--url", service]) == 0
    assert "colours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x"), ("b", "x")], "label"),
        ([("a", "x"), ("  ", "y")], "1 row has no text (line 2)"),
        ([("a", "x"), ("\ud800", "y")], "surrogate"),
        ([("a", "x"), ("\x00", "y")], "NUL"),
    ],
)
def test_an_invalid_dataset_is_reported_in_the_words_of_the_service(
    service: str, tmp_path: Path, capsys: Captured, rows: list[tuple[str, str]], message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(json.dumps({"input": text, "output": label}) for text, label in rows))
    assert run(["adapt", str(path), "--url", service]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_unknown_tasks_are_reported(service: str, capsys: Captured) -> None:
    assert run(["predict", "no such name", "text", "--url", service]) == 1
    assert "no task named" in capsys.readouterr().err
    assert run(["predict", "tsk_000000000000000000000000", "text", "--url", service]) == 1
    assert "no task with this id" in capsys.readouterr().err


def test_a_second_service_on_the_same_port_is_one_error_line(
    service: str, tiny: dict[str, str], tmp_path: Path
) -> None:
    port = service.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve", "--port", port],
        env=tiny | {"IPT_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: port {port} of 127.0.0.1 is in use")
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_service_leaves_no_process_behind(
    number: signal.Signals, tiny: dict[str, str], tmp_path: Path, data_dir: Path
) -> None:
    environment = tiny | {"IPT_DATA_DIR": str(data_dir)}
    with running_service(tmp_path / "log", environment) as service:
        serving = psutil.Process(service.process.pid)
        everything = [serving, *serving.children(recursive=True)]
        postgres = psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        # Ctrl-C signals the foreground process group, which does not include the worker and PostgreSQL.
        os.killpg(serving.pid, number)
        assert _exit_code_under_repeated_signals(serving, number, within_seconds=60) == 0
    assert psutil.wait_procs(everything, timeout=5)[1] == []
    # PostgreSQL removes its pid file, which ends the wait for it, shortly before it exits.
    assert _has_ended(postgres, within_seconds=10)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "Failed" not in log


def test_an_incomplete_request_does_not_delay_the_stop(tiny: dict[str, str], tmp_path: Path, data_dir: Path) -> None:
    with running_service(tmp_path / "log", tiny | {"IPT_DATA_DIR": str(data_dir)}) as service:
        serving = psutil.Process(service.process.pid)
        everything = [serving, *serving.children(recursive=True)]
        until(lambda: "core_loaded" in (tmp_path / "log").read_text())
        with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=30) as client:
            client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            time.sleep(0.5)
            began = time.monotonic()
            serving.terminate()
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert time.monotonic() - began < 8
        assert psutil.wait_procs(everything, timeout=30)[1] == []
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"stopping"' in answer
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert log.index("worker_stopped") < log.index("route=/v1/predict status=503"), (
        "the worker must stop at the same time as the API"
    )


def _exit_code_under_repeated_signals(
    process: psutil.Process, number: signal.Signals, within_seconds: float
) -> int | None:
    """Signal the process group repeatedly; return the exit code, None if it does not exit in time."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            return process.wait(timeout=0.05)
        except psutil.TimeoutExpired:
            os.killpg(process.pid, number)
    return None


def _has_ended(process: psutil.Process, within_seconds: float) -> bool:
    """Return whether a process that is not a child exits in time; a zombie counts as exited."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_failed_start_reports_the_error_of_the_service(tiny: dict[str, str], tmp_path: Path) -> None:
    environment = tiny | {"IPT_BACKBONE": str(tmp_path / "none"), "IPT_DATA_DIR": str(tmp_path / "data")}
    with pytest.raises(CliError, match="none"), running_service(tmp_path / "log", environment):
        pytest.fail("a service without a backbone must not become ready")


def test_the_demo_works_without_a_terminal(tiny: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "app.cli", "demo"],
        cwd=ROOT,
        env=tiny | {"IPT_DATA_DIR": str(tmp_path / "data"), "IPT_URL": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for message in (
        "plain baseline",
        "36 held back",
        "of 36 new tickets right",
        "plain baseline, fitted on the same tickets",
        "Time taken",
        "curl -s http://127.0.0.1:8000/v1/tasks/tsk_",
    ):
        assert message in result.stdout
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()
