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


def test_a_new_key_is_alone_on_stdout_and_opens_what_was_asked_for(engine: Engine, capsys: Captured) -> None:
    assert run(["keys", "create", "--tenant", "acme", "--scope", "predict"]) == 0
    said = capsys.readouterr()
    key = said.out.removesuffix("\n")
    assert key.startswith("ipt_")
    assert "\n" not in key
    assert key not in said.err
    with transaction(engine) as session:
        [caller] = service.callers_with(session, [key])
    assert caller is not None
    assert (caller.tenant_id, caller.scopes) == ("acme", {"predict"})
    assert caller.key_id in said.err


def test_every_scope_that_there_is_can_be_asked_for(capsys: Captured) -> None:
    options = [part for scope in get_args(models.Scope) for part in ("--scope", scope)]
    assert run(["keys", "create", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["scopes"] == sorted(Scope)


def test_without_options_a_key_of_the_default_tenant_adapts_and_predicts_for_ever(capsys: Captured) -> None:
    assert run(["keys", "create", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["tenant"], made["scopes"], made["expires_at"]) == ("default", ["adapt", "predict"], None)
    assert made.pop("key").startswith(made["prefix"])
    assert listed(capsys) == [made]


def test_keys_are_listed_by_tenant_with_their_state_and_never_shown_again(engine: Engine, capsys: Captured) -> None:
    made = []
    for options in (["--tenant", "a", "--expires-in", "30d", "--name", "import"], ["--tenant", "b"]):
        assert run(["keys", "create", "--json", "--scope", "admin", *options]) == 0
        made.append(json.loads(capsys.readouterr().out))
    lasts = datetime.fromisoformat(made[0]["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < lasts <= timedelta(days=30)
    assert [key["id"] for key in listed(capsys)] == [key["id"] for key in made]
    assert [key["id"] for key in listed(capsys, "--tenant", "b")] == [made[1]["id"]]
    with transaction(engine) as session:
        service.issue(session, "c", lifetime=timedelta(seconds=-1))
    assert run(["keys", "revoke", made[1]["id"]]) == 0
    assert "revoked" in capsys.readouterr().err
    assert [key["state"] for key in listed(capsys)] == ["valid", "revoked", "expired"]
    assert run(["keys", "list"]) == 0
    table = capsys.readouterr().out
    assert all(key["id"] in table and key["key"] not in table for key in made)
    assert "import" in table


def test_a_revoked_key_stays_revoked_and_opens_nothing(engine: Engine, capsys: Captured) -> None:
    assert run(["keys", "create", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    revoked = []
    for _ in range(2):
        assert run(["keys", "revoke", made["id"], "--json"]) == 0
        revoked.append(json.loads(capsys.readouterr().out))
    assert revoked[0] == revoked[1]
    assert revoked[0]["revoked_at"]
    with transaction(engine) as session:
        assert service.callers_with(session, [made["key"]]) == [None]


def test_revoking_what_is_no_key_says_so_in_one_line(capsys: Captured) -> None:
    assert run(["keys", "revoke", "key_unknown"]) == 1
    assert capsys.readouterr().err == "error: there is no key with this id: `ipt keys list` shows them\n"


@pytest.mark.parametrize(
    "options",
    [
        *[["--scope", "write"], ["--expires-in", "soon"], ["--expires-in", "0d"], ["--expires-in", "99999w"]],
        *[["--tenant", " "], ["--tenant", "a\nb"], ["--name", "\x00"]],
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(options: list[str], capsys: Captured) -> None:
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


def test_a_database_that_was_never_migrated_is_named(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", empty_database_url)
    assert run(["keys", "list"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ipt migrate" in error
