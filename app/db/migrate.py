"""Runs the migrations, and tells whether this release can work with the schema of a database.

They run when the embedded mode starts, in tests, and as `python -m app.db.migrate`. Releases run side by side during an
upgrade, so a migration only adds: it takes away what the release before still needs in a later release, and then raises
`schema_floor.oldest`. Locks are waited for no longer than `LOCK_SECONDS`, since all other statements queue up behind.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

import migrations
from app.db import row_security
from app.db.client_timeout import without_timeout
from app.db.session import make_engine
from app.settings import Settings

log = logging.getLogger(__name__)

SchemaState = Literal["ok", "pending", "unsupported"]

LOCK_SECONDS = 2.0
MAX_TRIES = 30
_RETRY_SECONDS = 0.5
# The key of the advisory lock; any number will do, as long as all processes use the same one.
_MIGRATION_LOCK = 71_107_867


class SchemaError(Exception):
    """This release cannot work with the schema of the database; the message says what to do."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Upgrade the database to `revision`; several processes may do this at the same time.

    Raises:
        SchemaError: a newer release has migrated the database, and this release cannot work with it; or the database
            user lacks a privilege.
        OperationalError: a table stays locked; the migrations before it are done, and a further call goes on.
    """
    with _migrating(engine) as connection:
        if schema_state(connection) == "unsupported":
            raise _unsupported(connection)
        if _is_known(connection):
            _run(connection, command.upgrade, revision)
            if _revision(connection) == _head():
                _install_row_security(connection)


def downgrade(engine: Engine, revision: str) -> None:
    """Downgrade the database to `revision` (`base` removes all tables); data of newer revisions is lost."""
    with _migrating(engine) as connection:
        _run(connection, command.downgrade, revision)


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """Connect for migrations, while no other process migrates."""
    with engine.connect() as connection, without_timeout(connection):
        # Each try ends its transaction: CREATE INDEX CONCURRENTLY waits for every transaction that is older.
        while not connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (_MIGRATION_LOCK,)).scalar():
            connection.commit()
            time.sleep(_RETRY_SECONDS)
        connection.exec_driver_sql(f"SET lock_timeout = {round(1000 * LOCK_SECONDS)}")
        connection.commit()
        try:
            yield connection
        finally:
            connection.rollback()
            connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
            connection.exec_driver_sql("RESET lock_timeout")
            connection.commit()


def _run(connection: Connection, migrate: Callable[[Config, str], None], revision: str) -> None:
    """Migrate, and go on after a lock that was not free in time; each migration has a transaction of its own."""
    for attempt in range(1, MAX_TRIES + 1):
        connection.rollback()  # Alembic begins a transaction for each migration
        try:
            migrate(_config(connection), revision)
        except OperationalError as error:
            if attempt == MAX_TRIES or not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            log.warning("migration_waits: a table is locked; try %d of %d", attempt, MAX_TRIES)
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _install_row_security(connection: Connection) -> None:
    """Grant requests their privileges; at every upgrade, since a backup contains none."""
    try:
        row_security.install(connection)
    except row_security.RowSecurityError as error:
        raise SchemaError(str(error)) from error


def schema_state(connection: Connection) -> SchemaState:
    """Return whether this release can work with the database's schema.

    `pending`: it lacks migrations, or privileges that a migration grants. `unsupported`: a newer release has taken away
    what this release needs.
    """
    if _is_known(connection):
        return "ok" if _revision(connection) == _head() and row_security.is_installed(connection) else "pending"
    floor = connection.exec_driver_sql("SELECT max(oldest) FROM schema_floor").scalar()
    return "ok" if floor is not None and floor <= _head() else "unsupported"


def check_schema(engine: Engine) -> None:
    """Check at the start of a process that it can work with the schema; an unavailable database is checked later.

    Raises:
        SchemaError: it cannot; the message says what to do.
    """
    try:
        with engine.connect() as connection:
            state = schema_state(connection)
            if state == "unsupported":
                raise _unsupported(connection)
            if state == "pending":
                raise SchemaError(
                    f"the database is at revision {_revision(connection) or 'none'}, and this release needs {_head()} "
                    f"and the role {row_security.ROLE}: run `ipt migrate` first"
                )
    except SQLAlchemyError as error:
        log.warning("schema_not_checked: %s", type(error).__name__)


def _unsupported(connection: Connection) -> SchemaError:
    return SchemaError(
        f"a newer release has migrated the database to revision {_revision(connection)}, and this release, which knows "
        f"{_head()}, cannot work with it: start the newer release, or restore a backup"
    )


def _is_known(connection: Connection) -> bool:
    revision = _revision(connection)
    return revision is None or revision <= _head()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache
def _head() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


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
    except (CommandError, SchemaError) as error:
        parser.error(str(error))
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
