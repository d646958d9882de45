"""An unreachable, full or outdated database: callers get an error, nothing is lost, and the service recovers."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

import ipt
from app.db import migrate
from app.db.embedded import EmbeddedDatabaseError, embedded_postgres, last_fatal
from app.db.session import make_engine, transaction
from app.settings import Settings
from tests.support.service import Serve, adaptation_body, error_of, running

KEY = "a-key-of-sixteen-characters-or-more"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def test_an_unreachable_database_is_reported_and_the_process_keeps_running(tiny_settings: dict[str, Any]) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    settings = Settings(database_url=url, api_key=KEY, **tiny_settings)
    with running(settings, None, wait=False) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"] == "unavailable"
        response = client.post("/v1/adaptations", json=adaptation_body(), headers=AUTHORIZED)
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        assert int(response.headers["retry-after"]) > 0


def test_the_service_recovers_from_terminated_connections(serve: Serve, database_url: str) -> None:
    with serve() as client:
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
        engine = make_engine(database_url)
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        with engine.connect() as connection:
            connection.execute(text(f"{terminate} AND usename = current_user AND pid <> pg_backend_pid()"))
        engine.dispose()
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
        assert len(client.get("/v1/adaptations").json()["data"]) == 2


@pytest.mark.parametrize("committed", [True, False])
def test_a_lost_commit_is_reported_as_unknown_and_can_be_repeated_with_the_same_key(
    serve: Serve, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = psycopg.Connection.commit

    def lose(connection: psycopg.Connection[Any]) -> None:
        if connection.execute("SELECT FROM adaptations").fetchone() is None:  # a background task's
            commit(connection)
            return
        monkeypatch.setattr(psycopg.Connection, "commit", commit)
        if committed:
            commit(connection)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with serve() as client:
        key = {"Idempotency-Key": "order-66"}
        monkeypatch.setattr(psycopg.Connection, "commit", lose)
        response = client.post("/v1/adaptations", json=adaptation_body(), headers=key)
        error = error_of(response)
        assert (response.status_code, error["code"]) == (503, "outcome_unknown")
        assert int(response.headers["retry-after"]) > 0
        assert "nothing was saved" not in error["message"]
        assert "unknown: send the request again with the same Idempotency-Key" in error["message"]
        assert len(client.get("/v1/adaptations").json()["data"]) == committed
        assert client.post("/v1/adaptations", json=adaptation_body(), headers=key).status_code == 202
        [adaptation] = client.get("/v1/adaptations").json()["data"]
        monkeypatch.setattr(psycopg.Connection, "commit", lose)
        response = client.get(f"/v1/adaptations/{adaptation['id']}")
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        monkeypatch.setattr(psycopg.Connection, "commit", lose)
        cancel = f"/v1/adaptations/{adaptation['id']}/cancel"
        assert error_of(client.post(cancel))["code"] == "outcome_unknown"
        assert client.post(cancel).json()["state"] == "cancelled"


def test_a_read_only_database_is_reported_and_nothing_is_half_written(serve: Serve, database_url: str) -> None:
    name = make_url(database_url).database
    with serve() as client:
        server = create_engine(database_url, isolation_level="AUTOCOMMIT")

        def read_only(value: str) -> None:
            with server.connect() as connection:
                connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"))
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
                    )
                )

        read_only("on")
        response = client.post("/v1/adaptations", json=adaptation_body())
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        assert client.get("/v1/adaptations").json()["data"] == []
        read_only("off")
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
        server.dispose()


def test_a_full_disk_is_reported_and_nothing_is_half_written(serve: Serve, database_url: str) -> None:
    """The disk is full at the last row that a request writes."""
    engine = make_engine(database_url)
    with transaction(engine) as session:
        session.execute(
            text(
                "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
            )
        )
        session.execute(
            text("CREATE TRIGGER full_disk BEFORE INSERT ON adaptation_events EXECUTE FUNCTION disk_full()")
        )
    with serve() as client:
        response = client.post("/v1/adaptations", json=adaptation_body())
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        assert client.get("/v1/tasks").json()["data"] == client.get("/v1/adaptations").json()["data"] == []
        with transaction(engine) as session:
            session.execute(text("DROP TRIGGER full_disk ON adaptation_events"))
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
    engine.dispose()


def test_an_unexpected_error_is_a_500_that_quotes_nothing(
    serve: Serve, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(database_url)
    with transaction(engine) as session:
        session.execute(text("ALTER TABLE datasets DROP COLUMN content_hash"))
    with serve(wait=False) as client:
        response = client.post("/v1/adaptations", json=adaptation_body())
        assert (response.status_code, error_of(response)["code"]) == (500, "internal")
    assert "i was charged twice" not in caplog.text
    assert "ProgrammingError" in caplog.text
    engine.dispose()


def test_a_database_of_another_release_is_not_ready(serve: Serve, database_url: str) -> None:
    engine = make_engine(database_url)
    with serve() as client:
        migrate.downgrade(engine, "base")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["migrations"]) == (503, "pending")
    engine.dispose()


def test_a_subspace_that_the_database_rejects_makes_the_service_not_ready(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ipt.load_subspace

    def load_with_nul(*arguments: Any) -> ipt.Subspace:
        subspace = load(*arguments)
        subspace.manifest["note"] = "\0"
        return subspace

    monkeypatch.setattr("ipt.subspace.loading.load_subspace", load_with_nul)
    with serve(wait=False) as client:
        deadline = time.monotonic() + 60
        while (ready := client.get("/readyz")).json()["checks"]["model"] == "loading":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (ready.status_code, ready.json()["checks"]["model"]) == (503, "failed")
        assert "manifest" in ready.json()["error"]["message"]


def test_a_second_service_on_the_same_folder_is_rejected(data_dir: Path) -> None:
    with (
        embedded_postgres(data_dir),
        pytest.raises(EmbeddedDatabaseError, match="in use"),
        embedded_postgres(data_dir),
    ):
        pass


def test_data_survives_a_restart_and_a_killed_process(data_dir: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from app.db.embedded import embedded_postgres\n"
        "with embedded_postgres(Path(sys.argv[1])) as url: print(url, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", holder, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        engine = make_engine(process.stdout.readline().strip())
        with transaction(engine) as session:
            session.execute(text("CREATE TABLE kept AS SELECT 42 AS answer"))
        engine.dispose()
        process.kill()
    # The server still runs without its owner; the next owner takes it over and stops it.
    with embedded_postgres(data_dir) as url:
        engine = make_engine(url)
        with transaction(engine) as session:
            assert session.execute(text("SELECT answer FROM kept")).scalar() == 42
        engine.dispose()
        postmaster = int((data_dir / "postgres/postmaster.pid").read_text().splitlines()[0])
    deadline = time.monotonic() + 10
    while psutil.pid_exists(postmaster):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # A process number that now belongs to another process, as after a reboot.
    (data_dir / "postgres/postmaster.pid").write_text(f"1\n{data_dir}/postgres\n1\n5432\n{data_dir}\n\n1 1\nready\n")
    with embedded_postgres(data_dir) as url:
        engine = make_engine(url)
        with transaction(engine) as session:
            assert session.execute(text("SELECT answer FROM kept")).scalar() == 42
        engine.dispose()


def test_a_folder_that_is_not_writable_gets_a_clear_error(data_dir: Path) -> None:
    (data_dir / "file").touch()
    with pytest.raises(EmbeddedDatabaseError, match="IPT_DATA_DIR"), embedded_postgres(data_dir / "file"):
        pass


def test_a_folder_name_may_contain_shell_characters(data_dir: Path) -> None:
    with embedded_postgres(data_dir / "a b & é+%20;'(c)#?") as url:
        assert _scalar(url, "SELECT 1") == 1


@pytest.mark.parametrize("name", ['quo"te', "$HOME", "back`tick", "back\\slash"])
def test_a_folder_name_that_postgresql_cannot_quote_is_rejected(data_dir: Path, name: str) -> None:
    with pytest.raises(EmbeddedDatabaseError, match="set IPT_DATA_DIR"), embedded_postgres(data_dir / name):
        pass


@pytest.mark.parametrize("version", ["12\n", "junk"])
def test_a_folder_of_another_postgresql_version_gets_a_clear_error(data_dir: Path, version: str) -> None:
    (data_dir / "postgres").mkdir()
    (data_dir / "postgres/PG_VERSION").write_text(version)
    with pytest.raises(EmbeddedDatabaseError, match="PostgreSQL can read"), embedded_postgres(data_dir):
        pass


def test_the_error_of_a_failed_start_contains_the_servers_reason(data_dir: Path) -> None:
    with embedded_postgres(data_dir):
        pass
    (data_dir / "postgres/postgresql.conf").write_text("max_connections = none\n")
    with pytest.raises(EmbeddedDatabaseError, match=r"FATAL: .*configuration file"), embedded_postgres(data_dir):
        pass


def test_the_reason_of_a_stop_is_not_an_error_that_clients_got(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "[1] FATAL:  could not write to file: No space left on device\n[2] FATAL:  the database system is starting up\n"
    )
    assert last_fatal(log) == "FATAL:  could not write to file: No space left on device"


@pytest.mark.parametrize("folder", ["plain", "with space"])
def test_a_server_that_dies_is_restarted(data_dir: Path, folder: str) -> None:
    with embedded_postgres(data_dir / folder) as url:
        _scalar(url, "SELECT 0; CREATE TABLE kept AS SELECT 42 AS answer")
        _postmaster(data_dir / folder).kill()
        deadline = time.monotonic() + 30
        while True:
            try:
                assert _scalar(url, "SELECT answer FROM kept") == 42
                break
            except OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.2)


def test_the_watcher_survives_a_lack_of_file_descriptors(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with embedded_postgres(data_dir) as url:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        deadline = time.monotonic() + 30
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            while "database_not_watched" not in caplog.text:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert "Too many open files" in caplog.text
        _postmaster(data_dir).kill()
        while True:
            try:
                assert _scalar(url, "SELECT 1") == 1
                break
            except OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.2)


def _postmaster(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postgres/postmaster.pid").read_text().splitlines()[0]))


def _scalar(url: str, statement: str) -> object:
    engine = make_engine(url)
    try:
        with transaction(engine) as session:
            return session.execute(text(statement)).scalar()
    finally:
        engine.dispose()


def test_the_embedded_service_starts_its_own_database(tiny_settings: dict[str, Any], data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir / "data", **tiny_settings)
    for expected in (1, 2):
        with running(settings, None) as client:
            assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202
            assert len(client.get("/v1/adaptations").json()["data"]) == expected
    with pytest.raises(httpx.ConnectError):
        httpx.get(str(client.base_url))
