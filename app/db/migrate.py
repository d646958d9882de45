"""Runs the migrations: when the embedded mode starts, in tests, and as `python -m app.db.migrate`."""

import argparse
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

import migrations
from app.db.client_timeout import without_timeout
from app.db.session import make_engine
from app.settings import Settings

# The key of the advisory lock; any number will do, as long as all processes use the same one.
_MIGRATION_LOCK = 71_107_867


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Upgrade the database to `revision`; several processes may do this at the same time."""
    with engine.connect() as connection, without_timeout(connection), connection.begin():
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Downgrade the database to `revision` (`base` removes all tables); data of newer revisions is lost."""
    with engine.connect() as connection, without_timeout(connection), connection.begin():
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        command.downgrade(_config(connection), revision)


def pending(connection: Connection) -> bool:
    """Return whether the database is not at the newest revision that this code knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() != head


def main() -> None:
    """Migrate the database of `IPT_DATABASE_URL`."""
    parser = argparse.ArgumentParser(prog="python -m app.db.migrate", description=main.__doc__)
    parser.add_argument("direction", nargs="?", choices=("upgrade", "downgrade"), default="upgrade")
    parser.add_argument(
        "revision", nargs="?", help="the default is head; a downgrade requires it (base removes all tables)"
    )
    arguments = parser.parse_args()
    if arguments.direction == "downgrade" and arguments.revision is None:
        parser.error("a downgrade requires a revision; data of newer revisions is lost, with 'base' all data")
    settings = Settings()
    if settings.database_url is None:
        parser.error("IPT_DATABASE_URL is not set; the embedded database is migrated when the service starts")
    engine = make_engine(settings.database_url)
    try:
        if arguments.direction == "upgrade":
            upgrade(engine, arguments.revision or "head")
        else:
            downgrade(engine, arguments.revision)
    except CommandError as error:
        parser.error(str(error))
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
