"""Migrations upgrade and downgrade without loss, and agree with the tables that the models declare."""

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

import migrations
from app.db import migrate
from app.db.models import Base
from app.db.session import make_engine
from tests.support.tables import common, contents, fill_empty_tables


def test_the_migrated_tables_match_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_downgrade_and_upgrade_again(engine: Engine) -> None:
    migrate.downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    with engine.connect() as connection:
        assert migrate.pending(connection)
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert not migrate.pending(connection)


@pytest.mark.parametrize("arguments", [["downgrade"], ["downgrade", "9999"], ["upgrade", "9999"]])
def test_the_command_rejects_a_missing_or_unknown_revision(
    arguments: list[str], database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("IPT_DATABASE_URL", database_url)
    monkeypatch.setattr("sys.argv", ["migrate", *arguments])
    with pytest.raises(SystemExit, match="2"):
        migrate.main()
    assert "error: " in capsys.readouterr().err
    with engine.connect() as connection:
        assert not migrate.pending(connection)


def test_existing_keys_get_the_scopes_adapt_and_predict(engine: Engine) -> None:
    migrate.downgrade(engine, "0002")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO api_keys (id, tenant_id, prefix, sha256) VALUES ('key_1', 'default', 'ipt_', 'x')")
        )
    migrate.upgrade(engine)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT scopes, expires_at FROM api_keys")).one()
    assert (set(row.scopes), row.expires_at) == ({"adapt", "predict"}, None)


def test_a_downgrade_revokes_keys_whose_limits_it_cannot_keep(engine: Engine) -> None:
    kept, expired, narrow = "key_kept", "key_expired", "key_narrow"
    with engine.begin() as connection:
        for key, scopes, expires_at in (
            (kept, "{adapt,predict}", None),
            (expired, "{adapt,predict}", "2020-01-01Z"),
            (narrow, "{predict}", None),
        ):
            connection.execute(
                text(
                    "INSERT INTO api_keys (id, tenant_id, prefix, sha256, scopes, expires_at)"
                    " VALUES (:key, 'default', 'ipt_', :sha256, :scopes, :expires_at)"
                ),
                {"key": key, "sha256": key.encode(), "scopes": scopes, "expires_at": expires_at},
            )
    migrate.downgrade(engine, "0002")
    migrate.upgrade(engine)
    with engine.connect() as connection:
        revoked = connection.execute(text("SELECT id FROM api_keys WHERE revoked_at IS NOT NULL")).scalars().all()
    assert set(revoked) == {expired, narrow}


def test_vectors_that_many_tasks_share_are_marked_as_initial_vectors(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    migrate.upgrade(engine, "0005")
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        vectors = "(ARRAY[1, i / 220, 10 * greatest(i - 210, 0)])::vector"  # 210 equal vectors, then 9 others
        connection.execute(
            text(
                "INSERT INTO task_versions (task_id, version, tenant_id, adaptation_id, subspace_id, kind, labels,"
                " vector, metrics) SELECT 't' || i, 1, 'a', 'a' || i, 's', 'classification', '[]',"
                f" CASE WHEN i < 220 THEN {vectors} ELSE '[0,0,0]' END, '{{}}' FROM generate_series(1, 250) i"
            )
        )
    migrate.upgrade(engine)
    with engine.connect() as connection:
        counted = connection.execute(text("SELECT start, count(*) FROM task_versions GROUP BY start ORDER BY start"))
        assert counted.all() == [(-1, 210), (None, 40)]
    engine.dispose()


def test_two_processes_may_migrate_at_the_same_time(empty_database_url: str) -> None:
    engines = [make_engine(empty_database_url) for _ in range(2)]
    threads = [threading.Thread(target=migrate.upgrade, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engines[0].connect() as connection:
        assert not migrate.pending(connection)
    for engine in engines:
        engine.dispose()


def test_no_migration_loses_rows_or_changes_common_values(empty_database_url: str) -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    upwards = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    engine = make_engine(empty_database_url)
    migrate.upgrade(engine, upwards[0])
    fill_empty_tables(engine)
    for revision in upwards[1:]:
        before = contents(engine)
        migrate.upgrade(engine, revision)
        after = contents(engine)
        assert all(after.get(table) for table in before)
        assert common(before, after) == common(after, before)
        fill_empty_tables(engine)
    for revision in reversed(upwards[:-1]):
        before = contents(engine)
        migrate.downgrade(engine, revision)
        after = contents(engine)
        assert common(before, after) == common(after, before)
    engine.dispose()
