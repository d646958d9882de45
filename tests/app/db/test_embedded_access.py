"""Only the user who runs the service can connect to the embedded PostgreSQL, which an earlier release may have made."""

import stat
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from app.db import migrate
from app.db.embedded import embedded_postgres
from app.db.embedded_access import SERVICE_ROLE, SUPERUSER
from app.db.session import make_engine

NAMES = ["plain", "folder with a name that is longer than a path of a socket may be, which holds a hundred bytes"]


@pytest.mark.parametrize("name", NAMES, ids=["short", "long"])
def test_other_users_can_neither_enter_the_folder_of_the_socket_nor_use_it(data_dir: Path, name: str) -> None:
    with embedded_postgres(data_dir / name) as url:
        folder = Path(str(make_url(url).query["host"]))
        sockets = list(folder.glob(".s.PGSQL.*[0-9]"))
        assert len(sockets) == 1
        for path in (folder, *sockets):
            assert stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO) == 0
        unknown = make_engine(make_url(url).set(username="somebody").render_as_string(hide_password=False))
        with pytest.raises(OperationalError, match="Peer authentication failed"):
            unknown.connect()
        hba = (data_dir / name / "postgres" / "pg_hba.conf").read_text()
        assert "trust" not in hba


def test_a_folder_of_an_earlier_release_changes_its_owner_and_its_authentication(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as url:
        as_superuser = make_url(url).set(username=SUPERUSER).render_as_string(hide_password=False)
        engine = make_engine(as_superuser)
        with engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE ipt OWNER TO {SUPERUSER}"))
        migrate.upgrade(engine)
        engine.dispose()
    (data_dir / "postgres" / "pg_hba.conf").write_text("local all all trust\n")
    with embedded_postgres(data_dir) as url:
        engine = make_engine(url)
        migrate.downgrade(engine, "0016")  # changes tables, indexes and functions
        migrate.upgrade(engine)
        with engine.connect() as connection:
            owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'ipt'"
            assert connection.scalar(text(owner)) == SERVICE_ROLE
        engine.dispose()
    assert "trust" not in (data_dir / "postgres" / "pg_hba.conf").read_text()
