"""The commands `serve`, `worker` and `migrate`: preconditions, and errors in one line."""

import socket
from pathlib import Path

import pytest

from app.cli.root import run
from app.settings import Settings
from tests.support.cli import Captured, one_error_line


def test_a_port_in_use_is_reported_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPT_DATA_DIR", str(tmp_path / "data"))
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen(1)
        assert run(["serve", "--port", str(occupied.getsockname()[1])]) == 1
    assert not (tmp_path / "data").exists()


def test_a_public_address_without_an_api_key_is_rejected(free_port: int, capsys: Captured) -> None:
    assert run(["serve", "--host", "0.0.0.0", "--port", str(free_port)]) == 1
    assert "IPT_API_KEY" in one_error_line(capsys)


def test_a_supervised_worker_needs_a_metrics_port_of_its_own(
    free_port: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPT_METRICS_PORT", str(free_port))
    assert run(["serve", "--port", str(free_port)]) == 1
    assert "IPT_METRICS_PORT" in one_error_line(capsys)
    Settings(port=free_port)  # without a supervised worker both may be equal


@pytest.mark.parametrize("command", ["worker", "migrate"])
def test_worker_and_migrate_need_a_database(command: str, capsys: Captured) -> None:
    assert run([command]) == 1
    assert "IPT_DATABASE_URL is not set" in one_error_line(capsys)


def test_celery_needs_a_broker(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", "postgresql://127.0.0.1/none")
    assert run(["worker", "--celery"]) == 1
    assert "IPT_REDIS_URL" in one_error_line(capsys)


def test_migrating_an_unreachable_database_is_one_error_line(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", f"postgresql://127.0.0.1:{free_port}/none")
    assert run(["migrate"]) == 1
    assert "cannot be migrated" in one_error_line(capsys)


def test_migrating_twice_is_safe(empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", empty_database_url)
    assert run(["migrate"]) == 0
    assert run(["migrate"]) == 0
    assert "up to date" in capsys.readouterr().err
