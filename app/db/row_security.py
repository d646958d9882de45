"""Row-level security: within a restricted transaction, PostgreSQL hides the rows of every other tenant.

It lies underneath the queries' own filter by tenant, so that a query which lacks the filter reveals nothing. Requests
run restricted. The owner of the tables is not: migrations, workers, metrics and backups see all tenants.
"""

from collections.abc import Collection
from typing import Any

import psycopg
from sqlalchemy import Connection, Row, event, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from app.db.tables import METADATA

ROLE = "ipt_tenant"
"""The role of a restricted transaction. It owns nothing and cannot log in."""

_HIDDEN = {"schema_floor"}
_READ_ONLY = {"subspaces", "workers", "api_keys"}
_RESTRICT = text(
    "SELECT set_config('ipt.tenant_ids', CAST(:tenant_ids AS text[])::text, true), set_config('role', :role, true)"
)
_STATE = text(
    "SELECT pg_has_role(oid, 'MEMBER') AS is_member, has_table_privilege(oid, 'task_versions', 'INSERT') AS is_granted "
    "FROM pg_roles WHERE rolname = :role"
)
_CREATE = f"""
DO $$ BEGIN
    CREATE ROLE {ROLE} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- another database of this server has just created it
END $$
"""


class RowSecurityError(Exception):
    """The database user may not create the role of restricted transactions; the message says what to do."""


def restrict(session: Session, tenant_ids: Collection[str]) -> None:
    """Restrict the session's next transaction to the rows of these tenants, at the cost of one statement."""
    parameters = {"tenant_ids": list(tenant_ids), "role": ROLE}

    def begin(_session: Session, _transaction: object, connection: Connection) -> None:
        connection.execute(_RESTRICT, parameters)

    event.listen(session, "after_begin", begin)


def is_installed(connection: Connection) -> bool:
    """Return whether restricted transactions can run; a restored backup lacks the role and its privileges."""
    state = _state(connection)
    return state is not None and state.is_member and state.is_granted


def install(connection: Connection) -> None:
    """Create the role, and grant it what requests need; idempotent.

    Raises:
        RowSecurityError: the database user may not do this.
    """
    try:
        state = _state(connection)
        if state is None:
            connection.exec_driver_sql(_CREATE)
        if state is None or not state.is_member:
            connection.exec_driver_sql(f"GRANT {ROLE} TO CURRENT_USER")
        for table in sorted(set(METADATA.tables) - _HIDDEN):
            privileges = "SELECT" if table in _READ_ONLY else "SELECT, INSERT, UPDATE, DELETE"
            connection.exec_driver_sql(f"GRANT {privileges} ON {table} TO {ROLE}")
        connection.commit()
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        raise RowSecurityError(
            f"the database user may not create the role {ROLE}, which hides other tenants' rows from a request: "
            f"run `CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO the_user_of_IPT_DATABASE_URL` as an administrator, "
            "then `ipt migrate` again"
        ) from error


def _state(connection: Connection) -> Row[Any] | None:
    return connection.execute(_STATE, {"role": ROLE}).one_or_none()
