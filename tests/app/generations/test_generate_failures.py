"""`POST /v1/tasks/{id}/generate` when the engine fails, the model fails, or memory runs out."""

from typing import Any

import pytest
import torch

from tests.support.service import error_of
from tests.support.text_service import TextService, messages, metric


def test_an_engine_failure_fails_the_running_texts_only(service: TextService, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("secret")

    service.generate()
    monkeypatch.setattr(service.engine, "_recover", broken)
    assert error_of(service.generate())["code"] == "generation_failed"
    monkeypatch.undo()
    assert service.generate().status_code == 200


def test_out_of_memory_halves_the_batch(service: TextService, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"input": None, "inputs": ["hello world", "play music", "me", "the cat sat"], "max_new_tokens": 8}
    expected = service.generate(**inputs).json()
    model: Any = service.engine.backbone.model
    forward, memory = model.forward, 1

    def limited(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", limited)
    assert service.generate(**inputs).json() == expected
    assert metric("ipt_generation_row_limit") == service.engine.row_limit == 1
    memory = 0
    response = service.generate()
    assert (response.status_code, error_of(response)["code"]) == (503, "out_of_memory")
    with service.stream() as streamed:
        *_, (name, data) = messages(streamed)
    assert (name, data["error"]["code"]) == ("error", "out_of_memory")
    memory = 100
    assert service.generate(**inputs).json() == expected


def test_a_model_failure_fails_one_request(service: TextService, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("secret")

    service.generate()
    monkeypatch.setattr(service.engine.backbone, "prefill_after_prompts", failing)
    response = service.generate()
    assert (response.status_code, error_of(response)["code"]) == (500, "generation_failed")
    assert "secret" not in response.text
    monkeypatch.undo()
    assert service.generate().status_code == 200
