"""The commands that talk to a service which generates text: `ipt generate` and `ipt export`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ipt
from app.cli.root import run
from tests.support.text_service import API_KEY, TextService


@pytest.fixture
def command(service: TextService, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options that connect a command to the service."""
    monkeypatch.setenv("IPT_API_KEY", API_KEY)
    return ["--url", str(service.client.base_url)]


def test_the_command_prints_a_text(
    service: TextService, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [expected] = service.generate(max_new_tokens=6, stop=["never", "ever"]).json()["generations"]
    options = ["--max-new-tokens", "6", "--stop", "never", "--stop", "ever", *command]
    assert run(["generate", service.tasks[0], "hello world", *options]) == 0
    assert capsys.readouterr().out == f"{expected['text']}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello world\n"), encoding="utf-8"))
    assert run(["generate", "first", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["generations"] == [expected]
    assert run(["generate", service.tasks[0], "hello", "--max-new-tokens", "25", *command]) == 1
    assert capsys.readouterr().err == "error: max_new_tokens: at most 24 on this service, got 25\n"


def test_the_command_reports_a_failure_during_generation_in_one_line(
    service: TextService, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError

    service.generate()
    monkeypatch.setattr(service.engine.backbone, "prefill_after_prompts", failing)
    assert run(["generate", service.tasks[0], "hello", *command]) == 1
    assert capsys.readouterr().err.startswith("error: the model failed on this input")


def test_the_command_exports_a_prompt(
    service: TextService, command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "first.safetensors"
    folder = str(service.subspace_dir)
    assert run(["export", "first", str(file), "--subspace", folder, *command]) == 0
    assert "prompt_embeds [4, 32]" in capsys.readouterr().out
    vector = service.client.get(f"/v1/tasks/{service.tasks[0]}/vector").json()["vector"]
    expected = ipt.load_subspace(folder).decoder(torch.tensor(vector)[None])[0]
    torch.testing.assert_close(load_file(file)["prompt_embeds"], expected)
    chat = ["--format", "vllm-chat", "--subspace", folder, *command]
    assert run(["export", "first", str(tmp_path / "request.json"), *chat]) == 1
    assert "a chat request needs 'user_turn': export the prompt as safetensors" in capsys.readouterr().err
    assert run(["export", "first", str(file), *command]) == 1
    assert "name the folder of the task's subspace with --subspace" in capsys.readouterr().err
    assert run(["export", "first", str(tmp_path), "--subspace", folder, *command]) == 1
    assert "cannot be written" in capsys.readouterr().err
