"""The database for commands that use it directly, without a service."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.output import CliError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@contextmanager
def database_session() -> "Iterator[Session]":
    """Yield a session in a transaction of the configured database."""
    from sqlalchemy.exc import SQLAlchemyError

    from app.db.embedded import EmbeddedDatabaseError, running_url
    from app.db.session import make_engine, transaction
    from app.settings import Settings

    settings = Settings()
    try:
        engine = make_engine(settings.database_url or running_url(settings.data_dir))
    except EmbeddedDatabaseError as error:
        raise CliError(str(error)) from error
    try:
        with transaction(engine) as session:
            yield session
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise CliError(
            f"the database returned an error ({reason[0] if reason else type(error).__name__}): "
            "check that it runs and that `ipt migrate` has brought it up to date"
        ) from error
    finally:
        engine.dispose()
