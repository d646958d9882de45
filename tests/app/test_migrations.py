"""Migrations go up, come down, and agree with the tables that the code declares."""

import threading

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from app.db import migrate
from app.db.models import Base
from app.db.session import make_engine


def test_the_migrated_tables_are_those_that_the_models_declare(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_come_down_and_go_up_again(engine: Engine) -> None:
    migrate.downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    with engine.connect() as connection:
        assert migrate.pending(connection)
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert not migrate.pending(connection)


def test_keys_that_are_there_may_adapt_and_predict(engine: Engine) -> None:
    migrate.downgrade(engine, "0002")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO api_keys (id, tenant_id, prefix, sha256) VALUES ('key_1', 'default', 'ipt_', 'x')")
        )
    migrate.upgrade(engine)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT scopes, expires_at FROM api_keys")).one()
    assert (set(row.scopes), row.expires_at) == ({"adapt", "predict"}, None)


def test_two_processes_may_migrate_at_once(empty_database_url: str) -> None:
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
