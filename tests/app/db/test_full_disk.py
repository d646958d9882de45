"""A full disk under the embedded database: callers get 503, and freeing space is enough to recover."""

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from app.db.embedded import running_url
from app.db.embedded_access import SUPERUSER
from app.db.session import make_engine, transaction
from app.settings import Settings
from tests.support.service import adaptation_body, error_of, running

# A new server takes 40 MiB, and a segment of its write-ahead log 16.
_DISK = "size=96m,mode=755"


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on a small file system."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("only root on Linux can mount a small file system")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Use all remaining space, to the last byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                assert shutil.disk_usage(disk).free < size
    return filler


def send(client: httpx.Client) -> httpx.Response:
    """Request an adaptation to 100 kB of incompressible text."""
    examples = [{"input": secrets.token_hex(500), "output": label} for label in ("a", "b") * 50]
    return client.post("/v1/adaptations", json=adaptation_body(examples=examples))


def write_to_a_new_segment(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(text("SELECT pg_switch_wal()"))
        session.execute(text("UPDATE tenants SET served_at = now()"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_full_disk_is_reported_and_freeing_space_is_enough(
    disk: Path, tiny_settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with running(Settings(data_dir=disk / "data", **tiny_settings), None) as client:
        filler = fill(disk)
        rejected = send(client)
        assert (rejected.status_code, error_of(rejected)["code"]) == (503, "database_unavailable")
        assert "error=DiskFull" in caplog.text
        assert client.get("/readyz").status_code == client.get("/v1/tasks").status_code == 200, "reading needs no space"
        filler.unlink()
        assert send(client).status_code == 202

        # Without space for the write-ahead log, PostgreSQL stops and cannot start again.
        filler = fill(disk)
        service = make_url(running_url(disk / "data"))
        engine = make_engine(service.set(username=SUPERUSER).render_as_string(hide_password=False))
        with pytest.raises(DBAPIError):
            write_to_a_new_segment(engine)
        wait_until(lambda: "database_not_started" in caplog.text)
        assert "No space left on device" in caplog.text.partition("database_not_started")[2].partition("\n")[0]
        assert client.get("/readyz").json()["checks"]["database"] == "unavailable"
        rejected = send(client)
        assert (rejected.status_code, error_of(rejected)["code"]) == (503, "database_unavailable")
        filler.unlink()
        wait_until(lambda: send(client).status_code == 202)

        with transaction(engine) as session:
            for table in ("tasks", "datasets", "adaptations", "adaptation_events"):
                assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 2, table
        engine.dispose()
