"""Run the migrations from code: at start of the embedded mode, in tests, and as `python -m app.db.migrate`."""

import argparse
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

import migrations
from app.db.patience import unbounded
from app.db.session import make_engine
from app.settings import Settings

# Any number does, as long as every process that migrates uses the same one.
_MIGRATION_LOCK = 71_107_867


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database up to `revision`; several processes may call this at once."""
    with engine.connect() as connection, unbounded(connection), connection.begin():
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Bring the database down to `revision` (`base` for none); the tables' data is lost."""
    with engine.connect() as connection, unbounded(connection), connection.begin():
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        command.downgrade(_config(connection), revision)


def pending(connection: Connection) -> bool:
    """Whether the database is not at the revision that this code was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() != head


def main() -> None:
    """Migrate the database that `IPT_DATABASE_URL` names."""
    parser = argparse.ArgumentParser(prog="python -m app.db.migrate", description=main.__doc__)
    parser.add_argument("direction", nargs="?", choices=("upgrade", "downgrade"), default="upgrade")
    parser.add_argument("revision", nargs="?", help="head without it; going down it has to be named (base: nothing)")
    arguments = parser.parse_args()
    if arguments.direction == "downgrade" and arguments.revision is None:
        parser.error("downgrade needs a revision; what came after it is lost, with 'base' everything")
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
