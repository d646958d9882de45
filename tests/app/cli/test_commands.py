"""Commands that end without a service: usage, settings, and errors in one line."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from app.cli.root import run

Captured = pytest.CaptureFixture[str]

ROWS = '{"input": "a", "output": "x"}\n'


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def another_server() -> Iterator[str]:
    """The address of a web server that is not ours and answers everything with HTML."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def one_error_line(captured: Captured) -> str:
    said = captured.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["adapt"], ["predict"], ["serve", "--port", "70000"], ["subspace", "nope"], ["tasks", "--nope"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(arguments) == 2


@pytest.mark.parametrize(
    "command",
    [
        *["", "demo", "serve", "adapt", "predict", "tasks", "worker", "migrate", "settings"],
        *["subspace", "subspace fit", "subspace info", "keys", "keys create", "keys list", "keys revoke"],
    ],
)
def test_every_command_explains_itself(command: str, capsys: Captured) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert "Usage: ipt" in capsys.readouterr().out


def test_settings_are_printed_with_secrets_masked(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_PORT", "9001")
    monkeypatch.setenv("IPT_API_KEY", "a-key-nobody-may-see")
    monkeypatch.setenv("IPT_DATABASE_URL", "postgresql://ipt:hidden-word@db/ipt")
    assert run(["settings", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["IPT_PORT"] == 9001
    assert run(["settings"]) == 0
    printed += capsys.readouterr().out
    assert "nobody-may-see" not in printed
    assert "hidden-word" not in printed


def test_a_wrong_setting_is_named_as_its_variable(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_MAX_ATTEMPTS", "many")
    assert run(["settings"]) == 1
    assert "IPT_MAX_ATTEMPTS" in one_error_line(capsys)


@pytest.mark.parametrize("command", [["tasks"], ["predict", "tsk_1", "text"], ["adapt", "rows.jsonl"]])
def test_no_service_is_one_line_that_says_what_to_do(
    command: list[str], free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(ROWS)
    assert run([*command, "--url", f"http://127.0.0.1:{free_port}"]) == 1
    assert "ipt serve" in one_error_line(capsys)


def test_the_service_may_be_named_by_the_environment(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_URL", f"http://127.0.0.1:{free_port}")
    assert run(["tasks"]) == 1
    assert str(free_port) in one_error_line(capsys)


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none(url: str, capsys: Captured) -> None:
    assert run(["tasks", "--url", url]) == 1
    assert "not the address of a service" in one_error_line(capsys)


def test_a_server_that_is_not_ours_is_recognized(another_server: str, capsys: Captured) -> None:
    assert run(["tasks", "--url", another_server]) == 1
    assert "not as this service does" in one_error_line(capsys)


def test_a_port_in_use_is_said_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPT_DATA_DIR", str(tmp_path / "data"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        assert run(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert not (tmp_path / "data").exists()


def test_serving_others_without_a_key_is_refused(free_port: int, capsys: Captured) -> None:
    assert run(["serve", "--host", "0.0.0.0", "--port", str(free_port)]) == 1
    assert "IPT_API_KEY" in one_error_line(capsys)


@pytest.mark.parametrize("command", ["worker", "migrate"])
def test_commands_of_production_need_a_database(command: str, capsys: Captured) -> None:
    assert run([command]) == 1
    assert "IPT_DATABASE_URL is not set" in one_error_line(capsys)


def test_celery_needs_a_broker(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", "postgresql://127.0.0.1/none")
    assert run(["worker", "--celery"]) == 1
    assert "IPT_REDIS_URL" in one_error_line(capsys)


def test_migrating_a_database_that_is_not_there(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", f"postgresql://127.0.0.1:{free_port}/none")
    assert run(["migrate"]) == 1
    assert "cannot be migrated" in one_error_line(capsys)


def test_migrating_twice_does_no_harm(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", empty_database_url)
    assert run(["migrate"]) == 0
    assert run(["migrate"]) == 0
    assert "up to date" in capsys.readouterr().err


def test_a_subspace_can_be_looked_at(tiny_subspace_dir: Path, capsys: Captured) -> None:
    assert run(["subspace", "info", str(tiny_subspace_dir)]) == 0
    printed = capsys.readouterr().out
    assert "8 floats" in printed
    assert run(["subspace", "info", str(tiny_subspace_dir), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["subspace_id"] in printed


def test_a_folder_that_is_no_subspace(tmp_path: Path, capsys: Captured) -> None:
    assert run(["subspace", "info", str(tmp_path)]) == 1
    assert "not found" in one_error_line(capsys)


def test_a_subspace_is_fitted_from_a_folder_of_tasks_and_can_be_used(
    tiny_backbone_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("one", "two", "three"):
        rows = [
            {"split": "train", "input": f"{word} {name} {number}", "output": label}
            for number in range(8)
            for label, word in (("yes", "good"), ("no", "bad"))
        ]
        (tasks / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["subspace", "fit", str(tasks), str(tmp_path / "out"), "--backbone", str(tiny_backbone_dir)]
    assert run([*command, "--steps", "2", "--device", "cpu", "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert run(["subspace", "info", str(tmp_path / "out"), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["subspace_id"] == fitted["subspace_id"]
    assert manifest["training"]["tasks"] == ["one", "three", "two"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["subspace.json", "subspace.safetensors"]
