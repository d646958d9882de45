"""The command line against a real `ipt serve` in a process of its own, on the tiny backbone."""

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

from app.cli.child import running_service
from app.cli.client import ServiceClient
from app.cli.output import CliError
from app.cli.root import run
from tests.support.processes import until

# A service of its own is started for several of these tests, which takes its time where others use the machine too.
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
    """The id of an adapted task named 'colours'."""
    with ServiceClient(service) as client:
        rows = [{"input": f"{word} {n}", "output": word} for n in range(6) for word in ("red", "blue")]
        adaptation = client.wait(client.create_adaptation("colours", rows)["id"])
    assert adaptation["state"] == "succeeded"
    return str(adaptation["task_id"])


def test_adapt_waits_and_prints_the_score_beside_the_baselines(
    service: str, dataset: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tiny backbone has tuned before the command asks again.
    monkeypatch.setattr(ServiceClient, "wait", partialmethod(ServiceClient.wait, poll_seconds=0.01))
    assert run(["adapt", str(dataset), "--name", "by file", "--url", service]) == 0
    said = capsys.readouterr()
    assert re.search(r"succeeded after \d+ of \d+ steps", said.out)
    assert "without tuning" in said.out
    assert "tuning" in said.err


def test_adapt_as_json_prints_the_adaptation_and_nothing_else(service: str, dataset: Path, capsys: Captured) -> None:
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


def test_predict_says_which_of_several_tasks_of_a_name_answers(service: str, dataset: Path, capsys: Captured) -> None:
    for _ in range(2):
        assert run(["adapt", str(dataset), "--name", "twice", "--json", "--url", service]) == 0
        newest = json.loads(capsys.readouterr().out)["task_id"]
    assert run(["predict", "twice", "red", "--json", "--url", service]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"2 tasks are named 'twice': {newest} answers")
    assert json.loads(said.out)["task_id"] == newest


def test_predict_reads_standard_input_line_by_line_in_as_many_requests_as_it_takes(service: str, task: str) -> None:
    texts = "\n\n".join(f"text {number}" for number in range(130))
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "predict", task, "--json", "--url", service],
        input=texts,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 130


def test_tasks_lists_what_there_is(service: str, task: str, capsys: Captured) -> None:
    assert run(["tasks", "--json", "--url", service]) == 0
    listed = json.loads(capsys.readouterr().out)["data"]
    assert task in [entry["id"] for entry in listed]
    assert run(["tasks", "--url", service]) == 0
    assert "colours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "x"), ("b", "x")], "label"),
        ([("a", "x"), ("  ", "y")], "empty"),
        ([("a", "x"), ("\ud800", "y")], "surrogate"),
        ([("a", "x"), ("\x00", "y")], "NUL"),
    ],
)
def test_the_services_own_words_are_what_a_bad_dataset_gets(
    service: str, tmp_path: Path, capsys: Captured, rows: list[tuple[str, str]], said: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(json.dumps({"input": text, "output": label}) for text, label in rows))
    assert run(["adapt", str(path), "--url", service]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_unknown_tasks(service: str, capsys: Captured) -> None:
    assert run(["predict", "no such name", "text", "--url", service]) == 1
    assert "no task named" in capsys.readouterr().err
    assert run(["predict", "tsk_000000000000000000000000", "text", "--url", service]) == 1
    assert "no task with this id" in capsys.readouterr().err


def test_a_second_service_on_the_same_port_or_data_says_so_in_one_line(
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
def test_a_stopped_service_leaves_no_process_and_its_data_behind(
    number: signal.Signals, tiny: dict[str, str], tmp_path: Path, data_dir: Path
) -> None:
    environment = tiny | {"IPT_DATA_DIR": str(data_dir)}
    with running_service(tmp_path / "log", environment) as service:
        serving = psutil.Process(service.process.pid)
        everything = [serving, *serving.children(recursive=True)]
        postgres = psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        # What a terminal sends on Ctrl-C goes to the foreground group, in which the worker and PostgreSQL are not.
        os.killpg(serving.pid, number)
        assert _ended_under(serving, number, within_seconds=60) == 0
    assert psutil.wait_procs(everything, timeout=5)[1] == []
    # PostgreSQL takes its pid file away, which ends the wait for it, a moment before it is gone itself.
    assert _has_ended(postgres, within_seconds=10)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "Failed" not in log


def test_half_a_request_keeps_no_service_from_its_end(tiny: dict[str, str], tmp_path: Path, data_dir: Path) -> None:
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
        "the worker ends beside the API, not after it"
    )


def _ended_under(process: psutil.Process, number: signal.Signals, within_seconds: float) -> int | None:
    """The exit code of a process to whose group somebody impatient sends a signal again and again."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            return process.wait(timeout=0.05)
        except psutil.TimeoutExpired:
            os.killpg(process.pid, number)
    return None


def _has_ended(process: psutil.Process, within_seconds: float) -> bool:
    """Whether a process that is not our child ends in time; one that waits only for init to read its status has."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_service_that_cannot_start_is_an_error_in_its_own_words(tiny: dict[str, str], tmp_path: Path) -> None:
    nowhere = tiny | {"IPT_BACKBONE": str(tmp_path / "none"), "IPT_DATA_DIR": str(tmp_path / "data")}
    with pytest.raises(CliError, match="none"), running_service(tmp_path / "log", nowhere):
        pytest.fail("a service without a backbone is not ready")


def test_the_demo_works_without_a_terminal(tiny: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "demo"],
        cwd=ROOT,
        env=tiny | {"IPT_DATA_DIR": str(tmp_path / "data"), "IPT_URL": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in (
        "plain baseline",
        "36 held back",
        "of 36 new tickets right",
        "plain baseline, fitted on the same tickets",
        "Time taken",
        "curl -s http://127.0.0.1:8000/v1/tasks/tsk_",
    ):
        assert said in done.stdout
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()
