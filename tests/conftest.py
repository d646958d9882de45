"""What every test may stand on: a real PostgreSQL, started once, and a fresh migrated database for each test."""

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

from app.db import migrate
from app.db.embedded import embedded_postgres
from app.db.session import make_engine
from tests.support.tiny import build_tiny_encoder
from tests.support.tuned import keep_tuned  # noqa: F401, a fixture

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing by threads, which wait for each other where tests, or services, run side by side.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
for _name in [name for name in os.environ if name.startswith("IPT_")]:
    del os.environ[_name]  # a test never meets the settings, or the database, of whoever runs it

_TEMPLATE = "template_migrated"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what may take longest, so that no process is left with it alone at the end.

    Each process is dealt a stretch of the items, and takes from the ends of the others' later: at the head of each
    stretch stand the slow tests of some modules.
    """

    def most_seconds(item: pytest.Item) -> float:
        limit = item.get_closest_marker("timeout")
        return float(limit.args[0]) if limit else 0.0

    slow = sorted((item for item in items if most_seconds(item)), key=lambda item: (-most_seconds(item), item.path))
    of_modules = [list(group) for _, group in groupby(slow, key=lambda item: item.path)]
    rest = [item for item in items if not most_seconds(item)]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    dealt: list[pytest.Item] = []
    for number in range(processes):
        head = [item for module in of_modules[number::processes] for item in module]
        room = max(0, len(items) * (number + 1) // processes - len(dealt) - len(head))
        dealt += [*head, *rest[:room]]
        del rest[:room]
    items[:] = [*dealt, *rest]


def _run_outside_transaction(url: URL, statement: str) -> None:
    engine = make_engine(url.render_as_string(hide_password=False))
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL, in place of `tmp_path`.

    Run by root, the server is another user, and each further pytest that starts takes the way into pytest's own
    folders from others than root.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """A PostgreSQL server with a migrated template database."""
    # Not in pytest's own folders, as `data_dir` says.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, embedded_postgres(Path(folder)) as url_text:
        url = make_url(url_text)
        # Nothing here outlives the tests, so nothing needs to reach the disk.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            _run_outside_transaction(url, f"ALTER SYSTEM SET {setting} = off")
        _run_outside_transaction(url, "SELECT pg_reload_conf()")
        _run_outside_transaction(url, f"CREATE DATABASE {_TEMPLATE}")
        engine = make_engine(url.set(database=_TEMPLATE).render_as_string(hide_password=False))
        migrate.upgrade(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="session")
def make_database(postgres_url: URL) -> Callable[[], str]:
    """Make a fresh migrated database; returns its URL."""

    def make_database() -> str:
        name = f"test_{secrets.token_hex(6)}"
        _run_outside_transaction(postgres_url, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return postgres_url.set(database=name).render_as_string(hide_password=False)

    return make_database


@pytest.fixture
def database_url(postgres_url: URL, make_database: Callable[[], str]) -> Iterator[str]:
    """A fresh migrated database of this test alone."""
    url = make_database()
    yield url
    _run_outside_transaction(postgres_url, f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


@pytest.fixture
def empty_database_url(postgres_url: URL) -> Iterator[str]:
    """A fresh database with no table in it."""
    name = f"test_{secrets.token_hex(6)}"
    _run_outside_transaction(postgres_url, f"CREATE DATABASE {name}")
    yield postgres_url.set(database=name).render_as_string(hide_password=False)
    _run_outside_transaction(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on this test's database."""
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
    from ipt.subspace.modules import SubspaceDecoder

    folder = tiny_backbone_dir.parent / "subspace"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
    ipt.save_subspace(folder, decoder, ipt.load_backbone(str(tiny_backbone_dir), device="cpu"))
    return folder
