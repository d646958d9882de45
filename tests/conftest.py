"""Shared fixtures: a PostgreSQL server for the session, a migrated database for each test, and tiny models."""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL, make_url

import tests.support.any_machine  # noqa: F401, for its effect
from app.db import embedded_access, migrate
from app.db.embedded import embedded_postgres
from app.db.session import make_engine
from tests.support.tiny import build_tiny_encoder
from tests.support.tuned import keep_tuned  # noqa: F401, a fixture

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models do not benefit from threads, which only contend where tests run in parallel.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
for _name in [name for name in os.environ if name.startswith("IPT_")]:
    del os.environ[_name]  # tests must not use the settings or the database of the developer

_TEMPLATE = "template_migrated"
_SERVICE_ROLE = embedded_access.SERVICE_ROLE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order slow tests first, so that no process runs one at the end while the others are idle.

    pytest-xdist gives each process a contiguous part of the items, and processes later steal from the ends of other
    parts. So each part begins with the slow tests of some modules.
    """

    def most_seconds(item: pytest.Item) -> float:
        limit = item.get_closest_marker("timeout")
        return float(limit.args[0]) if limit else 0.0

    slow = sorted((item for item in items if most_seconds(item)), key=lambda item: (-most_seconds(item), item.path))
    of_modules = [list(group) for _, group in groupby(slow, key=lambda item: item.path)]
    rest = [item for item in items if not most_seconds(item)]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ordered: list[pytest.Item] = []
    for number in range(processes):
        head = [item for module in of_modules[number::processes] for item in module]
        room = max(0, len(items) * (number + 1) // processes - len(ordered) - len(head))
        ordered += [*head, *rest[:room]]
        del rest[:room]
    items[:] = [*ordered, *rest]


def _run_outside_transaction(url: URL, statement: str) -> None:
    engine = make_engine(url.render_as_string(hide_password=False))
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


def _as_service(url: URL, database: str) -> str:
    """Return the URL of a database for the service's role, which is no superuser."""
    return url.set(username=_SERVICE_ROLE, database=database).render_as_string(hide_password=False)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL, in place of `tmp_path`.

    For root, the server runs as another user, and every pytest run removes other users' access to pytest's folders.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """A PostgreSQL server with a migrated template database; the URL's user is a superuser."""
    # Not in pytest's folders, for the reason in `data_dir`.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, embedded_postgres(Path(folder)) as url_text:
        url = make_url(url_text).set(username=embedded_access.SUPERUSER)
        # The data need not survive a crash.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            _run_outside_transaction(url, f"ALTER SYSTEM SET {setting} = off")
        _run_outside_transaction(url, "SELECT pg_reload_conf()")
        # Rows of tests need not satisfy every foreign key.
        _run_outside_transaction(url, f"GRANT SET ON PARAMETER session_replication_role TO {_SERVICE_ROLE}")
        _run_outside_transaction(url.set(database="template1"), "CREATE EXTENSION vector")
        _run_outside_transaction(url, f"CREATE DATABASE {_TEMPLATE} OWNER {_SERVICE_ROLE}")
        engine = make_engine(_as_service(url, _TEMPLATE))
        migrate.upgrade(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="session")
def make_database(postgres_url: URL) -> Callable[[], str]:
    """Return a function that creates a migrated database and returns its URL."""

    def make_database() -> str:
        name = f"test_{secrets.token_hex(6)}"
        _run_outside_transaction(postgres_url, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} OWNER {_SERVICE_ROLE}")
        return _as_service(postgres_url, name)

    return make_database


@pytest.fixture
def database_url(postgres_url: URL, make_database: Callable[[], str]) -> Iterator[str]:
    """The URL of a migrated database for this test."""
    url = make_database()
    yield url
    _run_outside_transaction(postgres_url, f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


@pytest.fixture
def empty_database_url(postgres_url: URL) -> Iterator[str]:
    """The URL of a database without tables."""
    name = f"test_{secrets.token_hex(6)}"
    _run_outside_transaction(postgres_url, f"CREATE DATABASE {name} OWNER {_SERVICE_ROLE}")
    yield _as_service(postgres_url, name)
    _run_outside_transaction(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine for this test's database."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def tiny_backbone_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder of two layers and random weights, for `IPT_BACKBONE`."""
    return build_tiny_encoder(tmp_path_factory.mktemp("tiny") / "backbone")


@pytest.fixture(scope="session")
def tiny_subspace_dir(tiny_backbone_dir: Path) -> Path:
    """A subspace of 8 dimensions for the tiny backbone, untrained, for `IPT_SUBSPACE`."""
    import ipt
    from ipt.subspace.prompt_decoder import SubspaceDecoder

    folder = tiny_backbone_dir.parent / "subspace"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
    ipt.save_subspace(folder, decoder, ipt.load_backbone(str(tiny_backbone_dir), device="cpu"))
    return folder
