"""One process with an encoder and a backbone that writes: each task is tuned and answered on the right one."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

import ipt
from app.db.session import make_engine
from app.settings import Settings
from ipt.runtime import memory
from tests.support.service import EXAMPLES, adaptation_body, error_of, running
from tests.support.text_service import PAIRS
from tests.support.tiny import build_tiny_text
from worker.drain import Drainer
from worker.lazy_model import LazyModel


@dataclass
class TwoBackbones:
    """A client of the service, its settings, and the subspaces of the encoder and of the writer."""

    client: httpx.Client
    settings: Settings
    engine: Engine
    encoder: str
    writer: str

    def adapt(self, **body: Any) -> dict[str, Any]:
        """Create an adaptation, let a worker tune it, and return it."""
        response = self.client.post("/v1/adaptations", json=adaptation_body(**body))
        assert response.status_code == 202, response.text
        for _ in range(10):  # a drain ends at an error of a busy database
            self.work()
            adaptation = self.client.get(f"/v1/adaptations/{response.json()['id']}").json()
            if adaptation["state"] == "succeeded":
                return dict(adaptation)
        raise AssertionError(adaptation)

    def work(self, **changes: Any) -> None:
        settings = self.settings.model_copy(update=changes)
        Drainer(self.engine, LazyModel(settings), settings, "worker").drain(threading.Event())


@pytest.fixture(scope="module")
def folders(tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The two backbones, as entries of `IPT_BACKBONES`."""
    built, subspace = build_tiny_text(tmp_path_factory.mktemp("writer"), "gpt2")
    backbone = built.rename(built.with_name("tiny-writer"))
    return [f"{tiny_backbone_dir}={tiny_subspace_dir}", f"{backbone}={subspace}"]


@pytest.fixture
def service(folders: list[str], database_url: str, tmp_path: Path) -> Iterator[TwoBackbones]:
    settings = Settings(backbones=",".join(folders), device="cpu", data_dir=tmp_path, max_new_tokens=8)
    ids = [ipt.load_subspace(folder.partition("=")[2]).id for folder in folders]
    engine = make_engine(database_url)
    with running(settings, database_url) as client:
        yield TwoBackbones(client, settings, engine, *ids)
    engine.dispose()


def test_each_kind_is_tuned_and_answered_on_its_backbone(service: TwoBackbones) -> None:
    labels, texts = service.adapt(), service.adapt(name="writer", examples=PAIRS, kind="text2text")
    assert [labels["subspace_id"], texts["subspace_id"]] == [service.encoder, service.writer]
    client = service.client
    ids = [labels["task_id"], texts["task_id"]]
    [first] = client.post(f"/v1/tasks/{ids[0]}/predict", json={"inputs": ["refund"]}).json()["predictions"]
    [second] = client.post(f"/v1/tasks/{ids[1]}/predict", json={"inputs": ["play music"]}).json()["predictions"]
    assert first["label"] in ("billing", "login")
    assert isinstance(second["text"], str)
    mixed = [{"task_id": ids[number], "input": text} for number, text in ((1, "play music"), (0, "refund"))]
    answered = client.post("/v1/predict", json={"requests": mixed}).json()["predictions"]
    assert [answered[0]["text"], answered[1]["label"]] == [second["text"], first["label"]]
    assert answered[1]["scores"] == pytest.approx(first["scores"], abs=1e-5)
    assert client.post(f"/v1/tasks/{ids[1]}/generate", json={"input": "play music"}).status_code == 200
    refused = client.post(f"/v1/tasks/{ids[0]}/generate", json={"input": "refund"})
    assert (refused.status_code, error_of(refused)["code"]) == (409, "backbone_writes_no_text")


def test_a_named_subspace_decides(service: TwoBackbones) -> None:
    assert service.adapt(subspace=service.writer)["subspace_id"] == service.writer
    body = adaptation_body(examples=PAIRS, kind="text2text", subspace=service.encoder)
    refused = service.client.post("/v1/adaptations", json=body)
    assert (refused.status_code, error_of(refused)["code"]) == (422, "kind_not_supported")


def test_a_worker_may_serve_one_of_the_backbones(service: TwoBackbones, folders: list[str]) -> None:
    bodies = [adaptation_body(), adaptation_body(name="writer", examples=PAIRS, kind="text2text")]
    jobs = [service.client.post("/v1/adaptations", json=body).json()["id"] for body in bodies]
    service.work(backbones=folders[1])
    states = [service.client.get(f"/v1/adaptations/{job}").json()["state"] for job in jobs]
    assert states == ["queued", "succeeded"]


def test_the_service_says_which_backbones_it_has(service: TwoBackbones) -> None:
    client = service.client
    loaded = [(each["family"], each["subspace_id"]) for each in client.get("/readyz").json()["backbones"]]
    assert loaded == [("encoder", service.encoder), ("causal", service.writer)]
    subspaces = client.get("/v1/subspaces").json()["data"]
    assert {row["id"]: row["loaded"] for row in subspaces} == {service.encoder: True, service.writer: True}
    metrics = client.get("/metrics").text
    assert f'family="causal",subspace="{service.writer}"' in metrics


def test_openais_routes_name_the_backbone_of_each_model(service: TwoBackbones) -> None:
    client = service.client
    bases = [model["id"] for model in client.get("/openai/v1/models").json()["data"]]
    assert len(bases) == 2
    tasks = [service.adapt()["task_id"], service.adapt(name="w", examples=PAIRS, kind="text2text")["task_id"]]
    models = [model["id"] for model in client.get("/openai/v1/models").json()["data"][2:]]
    for task, base in zip(tasks, bases, strict=True):
        [name] = [model for model in models if model.endswith(task.removeprefix("tsk_"))]
        assert name.startswith(f"ft:{base}:")
        message = {"role": "user", "content": "refund please"}
        assert client.post("/openai/v1/chat/completions", json={"model": name, "messages": [message]}).is_success
        embedded = client.post("/openai/v1/embeddings", json={"model": name, "input": "refund"})
        assert embedded.is_success == (task == tasks[0])
    assert client.post("/openai/v1/embeddings", json={"model": bases[0], "input": "refund"}).is_success


@pytest.mark.parametrize("writes", [False, True], ids=["labels", "texts"])
def test_a_fine_tuning_job_of_a_stand_in_is_routed_by_its_file(service: TwoBackbones, writes: bool) -> None:
    texts = [f"{row['input']} {end}" for row in EXAMPLES for end in ("now", "today")]
    outputs = [f"sorry about {text}" for text in texts] if writes else ["billing", "login"] * len(EXAMPLES)
    lines = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": output}]}
        for text, output in zip(texts, outputs, strict=True)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = service.client.post("/openai/v1/files", files={"file": ("a.jsonl", content)}, data={"purpose": "fine-tune"})
    body = {"model": "gpt-4o-mini", "training_file": file.json()["id"]}
    job = service.client.post("/openai/v1/fine_tuning/jobs", json=body).json()
    adaptation = service.client.get(f"/v1/adaptations/adp_{job['id'].removeprefix('ftjob-')}").json()
    assert adaptation["subspace_id"] == (service.writer if writes else service.encoder)


def test_backbones_that_do_not_fit_into_memory_are_an_error_in_one_line(
    folders: list[str], database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipt.backbones.loading.available_bytes", lambda _: 10_000)
    settings = Settings(backbones=",".join(folders), device="cpu", data_dir=tmp_path)
    with running(settings, database_url, wait=False) as client:
        while "loading" in (response := client.get("/readyz")).json()["checks"].values():
            pass
        message = error_of_ready(response)
        assert "need about" in message
        assert "\n" not in message
    with pytest.raises(ipt.BackboneError, match=r"need about .* are available: load fewer backbones"):
        LazyModel(settings).load()


def error_of_ready(response: httpx.Response) -> str:
    assert response.status_code == 503
    return str(response.json()["error"]["message"])


def test_the_free_memory_of_this_machine_is_known() -> None:
    import torch

    available = memory.available_bytes(torch.device("cpu"))
    assert available is not None
    assert available > 10**6
