"""Migrations upgrade and downgrade without loss, and agree with the tables that the models declare."""

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, delete, insert, inspect, select, text, update

import migrations
from app.db import migrate
from app.db.session import make_engine
from app.db.tables import METADATA
from tests.support.tables import common, contents, fill_empty_tables, value_for


def test_the_migrated_tables_match_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, METADATA) == []


def test_migrations_downgrade_and_upgrade_again(engine: Engine) -> None:
    migrate.downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    with engine.connect() as connection:
        assert migrate.schema_state(connection) == "pending"
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert migrate.schema_state(connection) == "ok"


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
        assert migrate.schema_state(connection) == "ok"


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
        assert migrate.schema_state(connection) == "ok"
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


def test_a_release_that_the_schema_no_longer_supports_is_told_so(engine: Engine) -> None:
    def at(revision: str, floor: str) -> migrate.SchemaState:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
            connection.execute(text("UPDATE schema_floor SET oldest = :floor"), {"floor": floor})
        with engine.connect() as connection:
            return migrate.schema_state(connection)

    assert at("9998", floor="0013") == "ok", "the newer release has only added"
    migrate.check_schema(engine)
    migrate.upgrade(engine)
    assert at("9999", floor="9998") == "unsupported"
    for refuse in (migrate.check_schema, migrate.upgrade):
        with pytest.raises(migrate.SchemaError, match=r"revision 9999.*start the newer release"):
            refuse(engine)
    assert at("0013", floor="0013") == "pending"
    with pytest.raises(migrate.SchemaError, match=r"at revision 0013.*run `ipt migrate` first"):
        migrate.check_schema(engine)


def test_the_statements_of_every_supported_release_work_with_this_schema(empty_database_url: str) -> None:
    """Columns and tables of an older release can still be inserted, read, changed and deleted as that release does."""
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    engine = make_engine(empty_database_url)
    migrate.upgrade(engine)
    with engine.connect() as connection:
        floor = connection.execute(text("SELECT oldest FROM schema_floor")).scalar_one()
    supported = [script.revision for script in scripts.walk_revisions() if script.revision >= floor]
    assert len(supported) > 1
    migrate.downgrade(engine, floor)
    for revision in reversed(supported):
        migrate.upgrade(engine, revision)
        older = MetaData()
        older.reflect(engine)
        migrate.upgrade(engine)
        tables = [table for table in older.sorted_tables if table.name != "alembic_version"]
        with engine.connect() as connection:
            for table in tables:
                row = {column.name: value_for(column) for column in table.columns}
                if connection.execute(select(table)).first() is None:
                    connection.execute(insert(table).values(row))
                keys = [column.name for column in table.primary_key]
                connection.execute(update(table).values({name: row[name] for name in row if name not in keys} or row))
                assert connection.execute(select(table)).one()._mapping.keys() == row.keys()
            for table in reversed(tables):
                connection.execute(delete(table))
        migrate.downgrade(engine, revision)
    engine.dispose()


def test_a_migration_gives_way_to_a_locked_table_and_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    migrate.downgrade(engine, "0013")
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0.05)
    holder = engine.connect()
    holder.execute(text("LOCK TABLE workers IN ACCESS SHARE MODE"))
    released = threading.Event()

    def release_after_a_try(_seconds: float) -> None:
        holder.rollback()
        released.set()

    monkeypatch.setattr("app.db.migrate.time.sleep", release_after_a_try)
    migrate.upgrade(engine)
    holder.close()
    assert released.is_set()
    assert "migration_waits" in caplog.text
    with engine.connect() as connection:
        assert migrate.schema_state(connection) == "ok"


def test_renewing_a_lease_touches_no_index(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "WITH t AS (INSERT INTO tasks (id, tenant_id, name) VALUES ('t', 'default', 'n')), d AS (INSERT INTO"
                " datasets (id, tenant_id, content_hash, examples) VALUES ('d', 'default', 'h', '[]'))"
                " INSERT INTO adaptations (id, tenant_id, task_id, task_version, dataset_id, kind, state, body_hash,"
                " hyperparameters) VALUES ('a', 'default', 't', 1, 'd', 'classification', 'running', '', '{}')"
            )
        )
    with engine.connect() as connection:
        for _ in range(20):
            renewal = "UPDATE adaptations SET lease_until = now(), step = step + 1, checkpoint = 'c' WHERE id = 'a'"
            connection.execute(text(renewal))
            connection.commit()
        counts = "pg_stat_get_xact_tuples_updated({0}), pg_stat_get_xact_tuples_hot_updated({0})"
        updated, hot = connection.execute(text("SELECT " + counts.format("'adaptations'::regclass"))).one()
    assert hot == updated == 20
