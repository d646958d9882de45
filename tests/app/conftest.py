"""A service on a real port, with a tiny model behind it, and tasks that were really tuned."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine, delete

import ipt
from app.adaptations import claiming, lifecycle
from app.api_keys import service as api_keys
from app.db.models import Tenant
from app.db.session import make_engine, transaction
from app.ids import new_id
from app.main import create_app
from app.patient_protocol import PatientProtocol
from app.server import Server
from app.settings import Settings

EXAMPLES = [
    {"input": text, "output": label}
    for label, texts in {
        "billing": ["i was charged twice", "refund my money please", "the invoice is wrong", "card was charged"],
        "login": ["password does not work", "i can not login", "account is lost", "login screen is broken"],
    }.items()
    for text in texts
]

Serve = Callable[..., AbstractContextManager[httpx.Client]]
WorkOff = Callable[[], list[str]]


@contextmanager
def listening(server: uvicorn.Server) -> Iterator[int]:
    """The port of a server in a thread of its own, which is told to stop at the end and has to within half a minute."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def running(settings: Settings, database_url: str | None, *, wait: bool = True) -> Iterator[httpx.Client]:
    """The service on a real port, and a client of it."""
    app = create_app(settings, database_url=database_url)
    deadline = time.monotonic() + 60
    with (
        listening(Server(uvicorn.Config(app, http=PatientProtocol, port=0, log_config=None))) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        while wait and client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="session")
def tiny_settings(tiny_backbone_dir: Path, tiny_subspace_dir: Path) -> dict[str, Any]:
    """Settings that put the tiny model behind a service."""
    return {"backbone": str(tiny_backbone_dir), "subspace": str(tiny_subspace_dir), "device": "cpu"}


@pytest.fixture
def serve(database_url: str, tiny_settings: dict[str, Any], tmp_path: Path) -> Serve:
    """Run a service of one's own with these settings, on a fresh database; an open one without any."""

    def serve(*, wait: bool = True, embedded: bool = True, **changes: Any) -> AbstractContextManager[httpx.Client]:
        own = {"data_dir": tmp_path, "database_url": None if embedded else database_url}
        return running(Settings(**(tiny_settings | own | changes)), database_url, wait=wait)

    return serve


@dataclass(frozen=True)
class Shared:
    """One service for all tests, each of which is a tenant of its own."""

    base_url: str
    engine: Engine


@pytest.fixture(scope="session")
def shared(
    make_database: Callable[[], str], tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    """The shared service, which wants keys."""
    database_url = make_database()
    settings = Settings(database_url=database_url, data_dir=tmp_path_factory.mktemp("shared"), **tiny_settings)
    engine = make_engine(database_url)
    with running(settings, None) as client:
        yield Shared(str(client.base_url), engine)
    engine.dispose()


@pytest.fixture
def service_engine(shared: Shared) -> Engine:
    """The database behind `client`."""
    return shared.engine


@pytest.fixture
def new_client(shared: Shared) -> Iterator[Callable[..., httpx.Client]]:
    """Make clients of the shared service, each a new tenant; nothing of them is left when the test ends."""
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
                session.execute(delete(Tenant).where(Tenant.id == tenant))

        yield new_client


@pytest.fixture
def client(new_client: Callable[[], httpx.Client]) -> httpx.Client:
    """A client of the shared service, as a tenant who has nothing yet."""
    return new_client()


@pytest.fixture(scope="session")
def tiny_core(tiny_settings: dict[str, Any]) -> tuple[ipt.Backbone, ipt.Subspace]:
    """The tiny backbone and its subspace, for tests that tune."""
    backbone = ipt.load_backbone(tiny_settings["backbone"], device="cpu")
    return backbone, ipt.load_subspace(tiny_settings["subspace"], backbone)


def work_off_queue(engine: Engine, backbone: ipt.Backbone, subspace: ipt.Subspace) -> list[str]:
    """Tune all that is queued in a database, in this thread; the ids of the adaptations."""
    done = []
    with transaction(engine) as session:
        for job in claiming.claim(
            session, subspace_id=subspace.id, worker_id="test", lease_seconds=60, room=1000, running=0
        ):
            tuned = ipt.adapt(
                backbone,
                subspace,
                [ipt.Example(**example) for example in job.examples],
                kind=job.kind,
                hyperparameters=ipt.Hyperparameters(**job.hyperparameters),
            )
            result = lifecycle.Tuned(
                tuned.vector, tuned.readout, tuned.labels, tuned.kind, tuned.metrics, tuned.warnings
            )
            assert lifecycle.succeed(session, job.lease, result)
            done.append(job.lease.adaptation_id)
    return done


@pytest.fixture
def work_off(service_engine: Engine, tiny_core: tuple[ipt.Backbone, ipt.Subspace]) -> WorkOff:
    """Do what a worker does with all that is queued, in this thread; returns the ids of the adaptations."""
    return lambda: work_off_queue(service_engine, *tiny_core)


def adaptation_body(**changes: Any) -> dict[str, Any]:
    """A body that is accepted, quick to work off, with some fields changed."""
    return {"name": "tickets", "examples": EXAMPLES, "hyperparameters": {"steps": 1, "batch_size": 4}} | changes


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, after checking that it has the agreed shape and nothing else."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)
