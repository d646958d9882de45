"""API keys from the command line."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from sqlalchemy import Engine

from app.api_keys import service
from app.cli.keys import Scope
from app.cli.root import run
from app.db import migrate, models
from app.db.embedded import embedded_postgres
from app.db.session import make_engine, transaction

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", database_url)


def listed(capsys: Captured, *options: str) -> list[dict[str, Any]]:
    assert run(["keys", "list", "--json", *options]) == 0
    return list(json.loads(capsys.readouterr().out)["data"])


def test_create_prints_only_the_key_on_stdout_and_grants_the_scope(engine: Engine, capsys: Captured) -> None:
    assert run(["keys", "create", "--tenant", "acme", "--scope", "predict"]) == 0
    printed = capsys.readouterr()
    key = printed.out.removesuffix("\n")
    assert key.startswith("ipt_")
    assert "\n" not in key
    assert key not in printed.err
    with transaction(engine) as session:
        [caller] = service.callers_with(session, [key])
    assert caller is not None
    assert (caller.tenant_id, caller.scopes) == ("acme", {"predict"})
    assert caller.key_id in printed.err


def test_every_scope_can_be_granted(capsys: Captured) -> None:
    options = [part for scope in get_args(models.Scope) for part in ("--scope", scope)]
    assert run(["keys", "create", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["scopes"] == sorted(Scope)


def test_a_key_without_options_adapts_and_predicts_for_the_default_tenant_without_expiry(capsys: Captured) -> None:
    assert run(["keys", "create", "--json"]) == 0
    created = json.loads(capsys.readouterr().out)
    assert (created["tenant"], created["scopes"], created["expires_at"]) == ("default", ["adapt", "predict"], None)
    assert created.pop("key").startswith(created["prefix"])
    assert listed(capsys) == [created]


def test_list_shows_keys_by_tenant_with_their_state_but_never_the_secret(engine: Engine, capsys: Captured) -> None:
    created = []
    for options in (["--tenant", "a", "--expires-in", "30d", "--name", "import"], ["--tenant", "b"]):
        assert run(["keys", "create", "--json", "--scope", "admin", *options]) == 0
        created.append(json.loads(capsys.readouterr().out))
    lifetime = datetime.fromisoformat(created[0]["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < lifetime <= timedelta(days=30)
    assert [key["id"] for key in listed(capsys)] == [key["id"] for key in created]
    assert [key["id"] for key in listed(capsys, "--tenant", "b")] == [created[1]["id"]]
    with transaction(engine) as session:
        service.issue(session, "c", lifetime=timedelta(seconds=-1))
    assert run(["keys", "revoke", created[1]["id"]]) == 0
    assert "revoked" in capsys.readouterr().err
    assert [key["state"] for key in listed(capsys)] == ["valid", "revoked", "expired"]
    assert run(["keys", "list"]) == 0
    table = capsys.readouterr().out
    assert all(key["id"] in table and key["key"] not in table for key in created)
    assert "import" in table


def test_a_revoked_key_stays_revoked_and_grants_nothing(engine: Engine, capsys: Captured) -> None:
    assert run(["keys", "create", "--json"]) == 0
    created = json.loads(capsys.readouterr().out)
    revoked = []
    for _ in range(2):
        assert run(["keys", "revoke", created["id"], "--json"]) == 0
        revoked.append(json.loads(capsys.readouterr().out))
    assert revoked[0] == revoked[1]
    assert revoked[0]["revoked_at"]
    with transaction(engine) as session:
        assert service.callers_with(session, [created["key"]]) == [None]


def test_revoking_an_unknown_key_is_one_error_line(capsys: Captured) -> None:
    assert run(["keys", "revoke", "key_unknown"]) == 1
    assert capsys.readouterr().err == "error: there is no key with this id; `ipt keys list` lists all keys\n"


@pytest.mark.parametrize(
    "options",
    [
        *[["--scope", "write"], ["--expires-in", "soon"], ["--expires-in", "0d"], ["--expires-in", "99999w"]],
        *[["--tenant", " "], ["--tenant", "a\nb"], ["--name", "\x00"]],
    ],
)
def test_invalid_options_create_no_key(options: list[str], capsys: Captured) -> None:
    assert run(["keys", "create", *options]) == 2
    capsys.readouterr()
    assert listed(capsys) == []


def test_the_embedded_database_is_used_while_it_runs(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delenv("IPT_DATABASE_URL")
    monkeypatch.setenv("IPT_DATA_DIR", str(data_dir))
    with embedded_postgres(data_dir) as url:
        engine = make_engine(url)
        migrate.upgrade(engine)
        engine.dispose()
        assert run(["keys", "create"]) == 0
        assert capsys.readouterr().out.startswith("ipt_")
    assert run(["keys", "list"]) == 1
    assert capsys.readouterr().err.startswith(f"error: no database runs in {data_dir}: start `ipt serve`")


def test_a_database_without_migrations_is_one_error_line(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", empty_database_url)
    assert run(["keys", "list"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ipt migrate" in error
