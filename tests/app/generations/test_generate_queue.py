"""`POST /v1/tasks/{id}/generate` under load: queue limits, turns, disconnected callers, and a stopping service."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import ipt
from tests.support.service import Serve, adaptation_body, error_of, work_off_queue
from tests.support.text_service import PAIRS, Gate, TextService, messages, metric
from tests.support.tiny import build_tiny_text


@pytest.fixture
def gate(service: TextService, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    service.generate(max_new_tokens=1)
    gate = Gate(service.engine, monkeypatch)
    yield gate
    gate.open()
    until(lambda: service.engine.idle)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def open_rows(service: TextService) -> int:
    return service.writers[0]._capacity._used.total()


def test_a_disconnected_stream_is_cancelled(service: TextService, gate: Gate) -> None:
    before = metric("ipt_generations_total", reason="cancelled")
    with service.stream(max_new_tokens=24) as leaving:
        gate.open(2)
        assert next(messages(leaving))[0] == "delta"
        until(lambda: service.engine.running_rows == 1)
    [text], writer = service.engine._batches[0].texts, service.writers[0]
    until(lambda: bool(writer._cancelled) or text.cancelled)
    gate.open()
    until(lambda: metric("ipt_generations_total", reason="cancelled") == before + 1)
    assert service.engine.running_rows == 0


def test_a_waiting_stream_sends_keep_alives(service: TextService, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.generations.service.KEEP_ALIVE_SECONDS", 0.0)
    with service.stream(max_new_tokens=2) as response:
        lines = response.iter_lines()
        assert next(lines) == ": ping"
        gate.open()
        assert list(lines)[-3] == "event: done"


def test_a_disconnected_request_is_cancelled(service: TextService, gate: Gate) -> None:
    before = metric("ipt_generations_total", reason="cancelled")
    with pytest.raises(httpx.ReadTimeout):
        service.client.post(
            f"/v1/tasks/{service.tasks[0]}/generate",
            json={"inputs": ["hello", "me"]},
            timeout=httpx.Timeout(5, read=0.3),
        )
    until(lambda: len(service.writers[0]._cancelled) == 2)
    gate.open()
    until(lambda: metric("ipt_generations_total", reason="cancelled") == before + 2)


def test_a_full_queue_rejects_requests(service: TextService, gate: Gate) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(service.generate(input=None, inputs=["hello"] * 7))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: open_rows(service) == 14)
    refused = service.generate(num_beams=3)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "generation_queue_full")
    assert int(refused.headers["retry-after"]) > 0
    with service.stream(num_beams=3) as streamed:
        assert streamed.status_code == 429
    gate.open()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert service.generate(num_beams=3).status_code == 200


def test_a_request_larger_than_batch_and_queue_is_rejected(service: TextService) -> None:
    refused = service.generate(input=None, inputs=["hello"] * 10, num_beams=3)
    assert refused.status_code == 422
    assert error_of(refused)["param"] == "num_beams"
    assert "30 rows, and at most 28 of all callers" in error_of(refused)["message"]
    assert service.generate(input=None, inputs=["hello"] * 9, num_beams=3, max_new_tokens=1).status_code == 200


@pytest.mark.parametrize(("texts", "beams"), [(10, 1), (3, 3)])
def test_callers_take_turns(service: TextService, gate: Gate, texts: int, beams: int) -> None:
    many = {"input": None, "inputs": ["hello world"] * texts, "max_new_tokens": 20, "num_beams": beams}
    thread = threading.Thread(target=lambda: service.generate(**many))
    thread.start()
    until(lambda: open_rows(service) == texts * beams)
    answered = threading.Event()
    late = threading.Thread(target=lambda: service.generate(max_new_tokens=5).is_success and answered.set())
    late.start()
    until(lambda: open_rows(service) == texts * beams + 1)
    # Four rows run at a time, so the late text starts at step 21. First in, first out would start it at step 41 or 61.
    gate.open(30)
    assert answered.wait(30)
    gate.open()
    thread.join()
    late.join()


def test_a_stopping_service_ends_its_streams(serve: Serve, tmp_path: Path, engine: Any) -> None:
    backbone_dir, subspace_dir = build_tiny_text(tmp_path, "gpt2")
    backbone = ipt.load_backbone(str(backbone_dir), device="cpu")
    with pytest.MonkeyPatch.context() as patched:
        with serve(backbone=str(backbone_dir), subspace=str(subspace_dir)) as client:
            body = adaptation_body(examples=PAIRS, kind="text2text")
            task_id = client.post("/v1/adaptations", json=body).json()["task_id"]
            work_off_queue(engine, backbone, ipt.load_subspace(subspace_dir, backbone))
            step = ipt.GenerationEngine.step

            def slow(self: ipt.GenerationEngine) -> Any:
                time.sleep(1)
                return step(self)

            patched.setattr(ipt.GenerationEngine, "step", slow)
            path = f"{str(client.base_url).rstrip('/')}/v1/tasks/{task_id}/generate"
            received: list[tuple[str, Any]] = []
            opened = threading.Event()

            def listen() -> None:
                with httpx.stream("POST", path, json={"input": "hello", "stream": True}, timeout=30) as response:
                    for message in messages(response):
                        received.append(message)
                        opened.set()

            thread = threading.Thread(target=listen)
            thread.start()
            assert opened.wait(30)
        thread.join(30)
    assert (received[-1][0], received[-1][1]["error"]["code"]) == ("error", "stopping")
