"""Usage, settings, and the errors of commands that reach no service."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from app.cli.root import cli, run
from tests.support.cli import Captured, one_error_line
from tests.support.service import Serve

ROWS = '{"input": "a", "output": "x"}\n'


@pytest.fixture
def foreign_server() -> Iterator[str]:
    """The address of a foreign web server that answers everything with HTML."""

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


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["adapt"], ["predict"], ["serve", "--port", "70000"], ["subspace", "nope"], ["tasks", "--nope"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(arguments) == 2


def every_command(command: Any, name: str = "") -> Iterator[str]:
    yield name
    for part, child in getattr(command, "commands", {}).items():
        yield from every_command(child, f"{name} {part}".strip())


@pytest.mark.parametrize("command", list(every_command(get_command(cli))))
def test_every_command_has_help(command: str, capsys: Captured) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert "Usage: ipt" in capsys.readouterr().out


def test_settings_are_printed_with_secrets_masked(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_PORT", "9001")
    monkeypatch.setenv("IPT_API_KEY", "a-key-that-is-masked")
    monkeypatch.setenv("IPT_DATABASE_URL", "postgresql://ipt:hidden-word@db/ipt")
    assert run(["settings", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["IPT_PORT"] == 9001
    assert run(["settings"]) == 0
    printed += capsys.readouterr().out
    assert "a-key-that-is-masked" not in printed
    assert "hidden-word" not in printed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("IPT_MAX_ATTEMPTS", "many", "must be a whole number"),
        ("IPT_PORT", "70000", "must be at most 65535"),
        ("IPT_LEASE_SECONDS", "0", "must be more than 0"),
        (
            "IPT_DATABASE_URL",
            "postgresql://ipt:p@ss@db/ipt",
            "has more than one @: percent-encode the @ of the user or the password as %40",
        ),
        ("IPT_REDIS_URL", "amqp://broker", "must start with redis://, rediss:// or redis+socket://"),
        (
            "IPT_WEBHOOK_PRIVATE_NETWORKS",
            "10.0.0.0/8,intern",
            "'intern' does not appear to be an IPv4 or IPv6 network: list networks such as 10.0.0.0/8,fd00::/8",
        ),
    ],
)
def test_an_invalid_setting_is_named_by_its_variable(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv(name, value)
    assert run(["settings"]) == 1
    assert one_error_line(capsys) == f"error: {name}: {message}\n"


@pytest.mark.parametrize(
    "command", [["tasks"], ["predict", "tsk_1", "text"], ["generate", "tsk_1", "text"], ["adapt", "rows.jsonl"]]
)
def test_a_missing_service_is_one_error_line_that_says_what_to_do(
    command: list[str], free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(ROWS)
    assert run([*command, "--url", f"http://127.0.0.1:{free_port}"]) == 1
    assert "ipt serve" in one_error_line(capsys)


def test_the_address_can_come_from_the_environment(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_URL", f"http://127.0.0.1:{free_port}")
    assert run(["tasks"]) == 1
    assert str(free_port) in one_error_line(capsys)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://127.0.0.1", "http://", "http://[", "http://a b", "http://a..b", "http://a\nb", "::1"]
    + [f"http://127.0.0.1:{port}" for port in ("99999", "0", "-1", "http")],
)
def test_an_invalid_address_is_rejected(url: str, capsys: Captured) -> None:
    assert run(["tasks", "--url", url]) == 1
    assert "not the address of a service" in one_error_line(capsys)


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two\nlines", "tab\tbed", "ends in a space "])
def test_an_api_key_that_no_header_can_hold_is_rejected(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_API_KEY", key)
    assert run(["tasks"]) == 1
    assert "IPT_API_KEY cannot be sent" in one_error_line(capsys)


def test_a_foreign_server_is_recognized(foreign_server: str, capsys: Captured) -> None:
    assert run(["tasks", "--url", foreign_server]) == 1
    assert "it is not this service" in one_error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "texts", "as_json"),
    [
        (["-5 degrees", "warm", "- a dash", "--json"], ["-5 degrees", "warm", "- a dash"], True),
        (["-5"], ["-5"], False),
        (["--", "-no", "--json"], ["-no", "--json"], False),
        (["--url=http://a", "-x y"], ["-x y"], False),
    ],
)
def test_texts_may_start_with_a_hyphen(arguments: list[str], texts: list[str], as_json: bool) -> None:
    command: Any = get_command(cli)
    command = command.commands["predict"]
    context = command.make_context("predict", ["tsk_1", *arguments])
    assert (list(context.params["texts"]), context.params["as_json"]) == (texts, as_json)


def test_a_misspelt_option_is_no_text(capsys: Captured) -> None:
    assert run(["predict", "tsk_1", "text", "--jsn"]) == 2
    assert "--jsn" in capsys.readouterr().err


def test_retuning_every_task_waits_until_the_service_knows_its_subspace(
    serve: Serve, tmp_path: Path, capsys: Captured
) -> None:
    with serve(wait=False, subspace=str(tmp_path / "missing")) as client:
        assert run(["tasks", "retune", "--all", "--url", str(client.base_url)]) == 1
    assert "the service has not loaded its subspace yet" in one_error_line(capsys)
