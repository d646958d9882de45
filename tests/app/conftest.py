"""Fixtures: a service on a real port with a tiny model, and a worker that tunes its tasks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

import ipt
from app.api_keys import service as api_keys
from app.db.ids import new_id
from app.db.session import make_engine, transaction
from app.settings import Settings
from app.tenants import repository as tenants
from tests.support.fault_proxy import proxy, socket_folder  # noqa: F401, fixtures
from tests.support.service import Serve, WorkOff, running, work_off_queue


@pytest.fixture(scope="session")
def tiny_settings(tiny_backbone_dir: Path, tiny_subspace_dir: Path) -> dict[str, Any]:
    """Settings of a service with the tiny model."""
    return {"backbone": str(tiny_backbone_dir), "subspace": str(tiny_subspace_dir), "device": "cpu"}


@pytest.fixture
def serve(database_url: str, tiny_settings: dict[str, Any], tmp_path: Path) -> Serve:
    """Run a service for one test, on a fresh database; without settings it needs no API key."""

    def serve(*, wait: bool = True, embedded: bool = True, **changes: Any) -> AbstractContextManager[httpx.Client]:
        location = {"data_dir": tmp_path, "database_url": None if embedded else database_url}
        return running(Settings(**(tiny_settings | location | changes)), database_url, wait=wait)

    return serve


@dataclass(frozen=True)
class Shared:
    """One service for all tests; each test is a tenant of its own."""

    base_url: str
    engine: Engine


@pytest.fixture(scope="session")
def shared(
    make_database: Callable[[], str], tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    """The shared service, which requires API keys."""
    database_url = make_database()
    settings = Settings(database_url=database_url, data_dir=tmp_path_factory.mktemp("shared"), **tiny_settings)
    engine = make_engine(database_url)
    with running(settings, None) as client:
        yield Shared(str(client.base_url), engine)
    engine.dispose()


@pytest.fixture
def service_engine(shared: Shared) -> Engine:
    """The database of `client`'s service."""
    return shared.engine


@pytest.fixture
def new_client(shared: Shared) -> Iterator[Callable[..., httpx.Client]]:
    """Create clients of the shared service, each a new tenant, which is deleted after the test."""
    with ExitStack() as stack:

        def new_client(**key_options: Any) -> httpx.Client:
            tenant = new_id("tenant")
            with transaction(shared.engine) as session:
                _, key = api_keys.issue(session, tenant, **key_options)
            stack.callback(remove, tenant)
            headers = {"Authorization": f"Bearer {key}"}
            return stack.enter_context(httpx.Client(base_url=shared.base_url, headers=headers, timeout=60))

        def remove(tenant: str) -> None:
            with transaction(shared.engine) as session:
                tenants.remove(session, tenant)

        yield new_client


@pytest.fixture
def client(new_client: Callable[[], httpx.Client]) -> httpx.Client:
    """A client of the shared service, as a new tenant."""
    return new_client()


@pytest.fixture(scope="session")
def tiny_core(tiny_settings: dict[str, Any]) -> tuple[ipt.Backbone, ipt.Subspace]:
    """The tiny backbone and its subspace, for tests that tune."""
    backbone = ipt.load_backbone(tiny_settings["backbone"], device="cpu")
    return backbone, ipt.load_subspace(tiny_settings["subspace"], backbone)


@pytest.fixture
def work_off(service_engine: Engine, tiny_core: tuple[ipt.Backbone, ipt.Subspace]) -> WorkOff:
    """Run all queued adaptations in this thread, as a worker does; returns their ids."""
    return lambda: work_off_queue(service_engine, *tiny_core)
