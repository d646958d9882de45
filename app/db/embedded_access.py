"""Who may connect to the embedded PostgreSQL: only the user who runs the service, over a socket that others cannot use.

The service connects as `SERVICE_ROLE`, which owns its database and is no superuser.
"""

import os
import sys
from pathlib import Path

from sqlalchemy import Connection, text

from app.db.row_security import ROLE

SUPERUSER = "postgres"
SERVICE_ROLE = "ipt"
DATABASE = "ipt"
MAX_SOCKET_PATH = 100
"""Longest path of a socket, in bytes, that every system accepts."""

_HBA = "# Written by ipt at every start.\nlocal all all peer map=ipt\n"
_SOCKET_PERMISSIONS = "unix_socket_permissions = '0700'"
# The objects of a folder that an earlier release created; objects of extensions stay the superuser's.
_CHANGE_OWNERS = f"""
DO $$ DECLARE command text; BEGIN
    FOR command IN
        SELECT format('ALTER TABLE %s OWNER TO {SERVICE_ROLE}', oid::regclass) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') AND relowner <> '{SERVICE_ROLE}'::regrole
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO {SERVICE_ROLE}', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proowner <> '{SERVICE_ROLE}'::regrole
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
    LOOP
        EXECUTE command;
    END LOOP;
END $$
"""  # noqa: S608 - only constants


def require_own_user(pgdata: Path) -> None:
    """Make the server accept only connections of this system user, over its socket.

    On Windows, where PostgreSQL has no such check, it listens on 127.0.0.1 and trusts the users of the machine.
    """
    if sys.platform == "win32":
        return
    import pwd

    # Of root, PostgreSQL runs as another user, and both may connect.
    users = {pwd.getpwuid(uid).pw_name for uid in (os.geteuid(), pgdata.stat().st_uid)}
    roles = (SUPERUSER, SERVICE_ROLE)
    _write(pgdata / "pg_hba.conf", _HBA)
    _write(pgdata / "pg_ident.conf", "".join(f'ipt "{user}" {role}\n' for user in sorted(users) for role in roles))
    settings = pgdata / "postgresql.conf"
    lines = settings.read_text(encoding="utf-8")
    if _SOCKET_PERMISSIONS not in lines:
        settings.write_text(f"{lines.rstrip()}\n{_SOCKET_PERMISSIONS}\n", encoding="utf-8")


def _write(path: Path, content: str) -> None:
    """Overwrite a file of the server, which keeps its owner."""
    if path.read_text(encoding="utf-8", errors="replace") != content:
        path.write_text(content, encoding="utf-8")


def create_database(server: Connection) -> None:
    """Create the service's role and its database; idempotent. `server` commits each statement."""
    server.execute(text("SELECT pg_reload_conf()"))  # of a server that an earlier release started
    roles = set(server.scalars(text("SELECT rolname FROM pg_roles")))
    if SERVICE_ROLE not in roles:
        server.execute(text(f"CREATE ROLE {SERVICE_ROLE} LOGIN"))
    if ROLE not in roles:
        server.execute(text(f"CREATE ROLE {ROLE} NOLOGIN"))
    server.execute(text(f"GRANT {ROLE} TO {SERVICE_ROLE}"))
    query = text("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = :name")
    owner = server.execute(query, {"name": DATABASE}).scalar()
    if owner is None:
        server.execute(text(f"CREATE DATABASE {DATABASE} OWNER {SERVICE_ROLE}"))
    elif owner != SERVICE_ROLE:
        server.execute(text(f"ALTER DATABASE {DATABASE} OWNER TO {SERVICE_ROLE}"))


def prepare_database(database: Connection) -> None:
    """Do what only a superuser may do in the service's database; idempotent."""
    database.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    database.execute(text(_CHANGE_OWNERS))
