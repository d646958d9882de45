"""A service on a tiny GPT-2 that generates text, and a client of it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

import ipt
from app.db.session import make_engine
from app.generations import service as generations
from app.settings import Settings
from tests.support.service import adaptation_body, running, work_off_queue
from tests.support.tiny import build_tiny_text

API_KEY = "k" * 16
PAIRS = [
    {"input": f"{verb} {thing}", "output": f"{thing} please"}
    for verb in ("play", "send")
    for thing in ("music", "mail", "the bill", "my song")
]


@dataclass
class TextService:
    """A client of the service, and its two tuned tasks."""

    client: httpx.Client
    tasks: list[str]
    subspace_dir: Path
    writers: list[Any]

    @property
    def engine(self) -> ipt.GenerationEngine:
        """The engine of the service's writer, which starts with the first text."""
        [writer] = self.writers
        engine: ipt.GenerationEngine = writer._engine
        return engine

    def generate(self, number: int = 0, **body: Any) -> httpx.Response:
        return self.client.post(f"/v1/tasks/{self.tasks[number]}/generate", json={"input": "hello world"} | body)

    def stream(self, number: int = 0, **body: Any) -> Any:
        path = f"/v1/tasks/{self.tasks[number]}/generate"
        return self.client.stream("POST", path, json={"input": "hello world", "stream": True} | body)


class Gate:
    """Blocks each step of the engine until `open` releases it."""

    def __init__(self, engine: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._steps = threading.Semaphore(0)
        step = engine.step

        def gated() -> Any:
            self._steps.acquire()
            return step()

        monkeypatch.setattr(engine, "step", gated)

    def open(self, steps: int = 10_000) -> None:
        self._steps.release(steps)


@contextmanager
def running_text_service(folder: Path, database_url: str) -> Iterator[TextService]:
    """Run a service whose batches have four rows and whose queue has 24."""
    backbone_dir, subspace_dir = build_tiny_text(folder, "gpt2")
    settings = Settings(
        backbone=str(backbone_dir),
        subspace=str(subspace_dir),
        device="cpu",
        data_dir=folder,
        database_url=database_url,
        api_key=API_KEY,
        generate_batch_rows=4,
        generate_queue_rows=24,
        max_new_tokens=24,
    )
    writers: list[Any] = []
    make_writer = generations.Writer

    def recorded(*args: Any, **kwargs: Any) -> Any:
        writers.append(make_writer(*args, **kwargs))
        return writers[-1]

    with pytest.MonkeyPatch.context() as patch, running(settings, None) as client:
        patch.setattr(generations, "Writer", recorded)
        client.headers["Authorization"] = f"Bearer {API_KEY}"
        bodies = [adaptation_body(name=name, examples=PAIRS, kind="text2text") for name in ("first", "second")]
        tasks = [client.post("/v1/adaptations", json=body).json()["task_id"] for body in bodies]
        backbone = ipt.load_backbone(str(backbone_dir), device="cpu")
        engine = make_engine(database_url)
        assert len(work_off_queue(engine, backbone, ipt.load_subspace(subspace_dir, backbone))) == 2
        engine.dispose()
        yield TextService(client, tasks, subspace_dir, writers)


def messages(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Yield the event and the parsed data of each server-sent event."""
    event = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def metric(name: str, **labels: str) -> float:
    """Return the value of a Prometheus metric of this process, 0 if it has none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
