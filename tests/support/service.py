"""Run a service on a real port, build request bodies, and check error responses."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import uvicorn
from sqlalchemy import Engine

import ipt
from app.db.session import transaction
from app.http.connection_limits import LimitedProtocol
from app.http.server import Server
from app.main import create_app
from app.queue import claiming, lifecycle
from app.settings import Settings

SECRET = "a text that only its tenant may see"
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
    """Run a server in a thread and yield its port; at the end, the server has to stop within 30 seconds."""
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
    """Run the service on a real port and yield a client."""
    app = create_app(settings, database_url=database_url)
    deadline = time.monotonic() + 60
    with (
        listening(Server(uvicorn.Config(app, http=LimitedProtocol, port=0, log_config=None))) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        while wait and client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield client


def work_off_queue(engine: Engine, backbone: ipt.Backbone, subspace: ipt.Subspace) -> list[str]:
    """Tune every queued adaptation in this thread, and return their ids."""
    done = []
    with transaction(engine) as session:
        for job in claiming.claim(
            session, subspace_ids=[subspace.id], worker_id="test", lease_seconds=60, free_slots=1000, protected=0
        ):
            tuned = ipt.adapt(
                backbone,
                subspace,
                [ipt.Example(**example) for example in job.examples],
                kind=job.kind,
                hyperparameters=ipt.Hyperparameters(**job.hyperparameters),
            )
            assert lifecycle.succeed(session, job.lease, tuned)
            done.append(job.lease.adaptation_id)
    return done


def adaptation_body(**changes: Any) -> dict[str, Any]:
    """Return a valid body that is quick to tune, with some fields changed."""
    return {"name": "tickets", "examples": EXAMPLES, "hyperparameters": {"steps": 1, "batch_size": 4}} | changes


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of a response after checking its shape."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)
