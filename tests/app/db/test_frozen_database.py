"""A PostgreSQL that hangs, as on a hung disk: it keeps its connections open and never answers."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.cli.service_process import running_service
from app.db import client_timeout
from app.db.client_timeout import ClientTimeout, without_timeout
from app.db.embedded import embedded_postgres
from app.db.session import is_unavailable, make_engine, transaction
from app.settings import Settings
from tests.support.service import adaptation_body, error_of, running


def _processes(data_dir: Path) -> list[psutil.Process]:
    postmaster = psutil.Process(int((data_dir / "postgres/postmaster.pid").read_text().splitlines()[0]))
    return [postmaster, *postmaster.children(recursive=True)]


@contextmanager
def frozen(data_dir: Path) -> Iterator[None]:
    """Freeze the PostgreSQL of this folder; processes that still exist afterwards resume."""
    processes = _processes(data_dir)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.fixture
def frozen_url(data_dir: Path) -> Iterator[tuple[str, Path]]:
    """A PostgreSQL for one test, which may freeze it."""
    with embedded_postgres(data_dir) as url:
        yield url, data_dir


def test_a_statement_on_a_frozen_server_times_out_and_the_next_one_succeeds(
    frozen_url: tuple[str, Path],
) -> None:
    url, folder = frozen_url
    engine = make_engine(url, client_timeout=ClientTimeout(1))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with frozen(folder):
            began = time.monotonic()
            with pytest.raises(OperationalError) as raised:
                connection.execute(text("SELECT 1"))
            assert 1 <= time.monotonic() - began < 5
        assert is_unavailable(raised.value)
    with transaction(engine) as session:
        assert session.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_a_slow_statement_times_out_unless_the_limit_is_lifted(database_url: str) -> None:
    engine = make_engine(database_url, client_timeout=ClientTimeout(0.5))
    slow = text("SELECT pg_sleep(2)")
    with engine.connect() as connection, without_timeout(connection):
        connection.execute(slow)
    with engine.connect() as connection, pytest.raises(OperationalError):
        connection.execute(slow)
    # The limit applies to a statement, not to a connection.
    with engine.connect() as connection:
        for _ in range(8):
            connection.execute(text("SELECT pg_sleep(0.2)"))
    engine.dispose()


def test_a_process_that_shuts_down_stops_waiting(database_url: str) -> None:
    timeout = ClientTimeout()
    engine = make_engine(database_url, client_timeout=timeout)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_sleep(20)"))
        except OperationalError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    timeout.shorten()
    thread.join(5)
    assert not thread.is_alive()
    assert is_unavailable(errors[0])
    engine.dispose()


def test_callers_get_503_while_the_database_hangs(
    frozen_url: tuple[str, Path], tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = frozen_url
    monkeypatch.setattr(client_timeout, "TIMEOUT_SECONDS", 6)
    settings = Settings(data_dir=folder / "service", **tiny_settings)
    with running(settings, url) as client:
        assert client.get("/v1/tasks").status_code == 200
        responses: list[httpx.Response] = []

        def get() -> None:
            responses.append(httpx.get(f"{client.base_url}/v1/tasks", timeout=60))

        # More requests than threads, so that no thread is left for a probe.
        callers = [threading.Thread(target=get) for _ in range(50)]
        with frozen(folder):
            for caller in callers:
                caller.start()
            time.sleep(0.5)
            for _ in range(2):
                began = time.monotonic()
                ready = client.get("/readyz")
                assert time.monotonic() - began < 4
                assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "unavailable")
            for caller in callers:
                caller.join(60)
            assert len(responses) == 50
            assert {(response.status_code, error_of(response)["code"]) for response in responses} == {
                (503, "database_unavailable")
            }
        deadline = time.monotonic() + 30
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
        assert client.post("/v1/adaptations", json=adaptation_body()).status_code == 202


@pytest.mark.parametrize("worker", [False, True])
def test_ipt_serve_stops_in_time_while_its_database_hangs_and_loses_nothing(
    data_dir: Path, serving: Callable[..., Any], worker: bool
) -> None:
    with serving(data_dir, worker=worker) as (process, url):
        created = httpx.post(f"{url}/v1/adaptations", json=adaptation_body(), timeout=60)
        assert created.status_code == 202
        with frozen(data_dir):
            callers = [threading.Thread(target=_get_without_response, args=(url,)) for _ in range(50)]
            for caller in callers:
                caller.start()
            time.sleep(1)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            assert time.monotonic() - began < 12
            for caller in callers:
                caller.join(10)
    assert not [process for process in psutil.process_iter(["cmdline"]) if _serves(process, data_dir)]
    with embedded_postgres(data_dir) as database_url:
        engine = make_engine(database_url)
        with transaction(engine) as session:
            ids = session.execute(text("SELECT id FROM adaptations")).scalars().all()
        engine.dispose()
    assert list(ids) == [created.json()["id"]]


def _serves(process: psutil.Process, data_dir: Path) -> bool:
    return any(str(data_dir) in part for part in process.info["cmdline"] or ())


def _get_without_response(url: str) -> None:
    with suppress(httpx.HTTPError):
        httpx.get(f"{url}/v1/tasks", timeout=60)


@pytest.fixture
def serving(tiny_settings: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """Run `ipt serve` on a folder; yields its process and its URL once it is ready."""

    @contextmanager
    def serving(data_dir: Path, *, worker: bool) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        environment = os.environ | {f"IPT_{name.upper()}": value for name, value in tiny_settings.items()}
        environment["IPT_DATA_DIR"] = str(data_dir)
        option = "--worker" if worker else "--no-worker"
        with running_service(tmp_path / "serve.log", environment, option) as service:
            yield service.process, service.url

    return serving
