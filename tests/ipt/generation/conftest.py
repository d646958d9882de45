"""A tiny backbone of each way to write, with an untrained subspace and a few tasks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ipt
from ipt.backbones.text import PromptedTextBackbone
from ipt.task import bind
from tests.tiny import build_tiny_text

INPUTS = ["hello world", "the cat sat on the mat and the dog was not happy with it", "i love my phone", "me"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PromptedTextBackbone, ipt.Subspace]]:
    made: dict[str, tuple[PromptedTextBackbone, ipt.Subspace]] = {}

    def tiny(kind: str) -> tuple[PromptedTextBackbone, ipt.Subspace]:
        if kind not in made:
            folder, subspace = build_tiny_text(tmp_path_factory.mktemp("generation"), kind)
            backbone = ipt.load_backbone(str(folder), device="cpu")
            assert isinstance(backbone, PromptedTextBackbone)
            made[kind] = backbone, ipt.load_subspace(subspace, backbone)
        return made[kind]

    return tiny


@pytest.fixture(params=["gpt2", "llama", "t5", "bart"])
def engine(request: pytest.FixtureRequest, tiny: Any) -> ipt.GenerationEngine:
    return ipt.GenerationEngine(*tiny(request.param))


@pytest.fixture(params=["gpt2", "qwen2"])
def causal(request: pytest.FixtureRequest, tiny: Any) -> ipt.GenerationEngine:
    return ipt.GenerationEngine(*tiny(request.param))


def task(engine: ipt.GenerationEngine, number: int) -> ipt.BoundTask:
    """One of any number of tasks, each of which writes something else."""
    vector = np.random.default_rng(number).normal(size=8).astype(np.float32) * 3
    return bind(ipt.TaskHead(vector, engine.subspace.id, "text2text", (), None), engine.subspace)


def asked(engine: ipt.GenerationEngine, number: int = 0, **parameters: Any) -> ipt.GenerationRequest:
    """The request of this number: its task, its input, and greedy text of some length, or as the parameters say."""
    settings = ipt.GenerationParameters(**({"max_new_tokens": 6 + 3 * (number % 4)} | parameters))
    return ipt.GenerationRequest(f"r{number}", task(engine, number % 3), INPUTS[number % 4], settings)


def run(
    engine: ipt.GenerationEngine, requests: list[ipt.GenerationRequest], *, at_once: int = 100
) -> dict[str, ipt.TextFinished]:
    """Every text, by request, when `at_once` further ones come with each step; checks what was streamed of it."""
    coming, streamed, finished = list(requests), {one.request_id: "" for one in requests}, {}
    while coming or not engine.idle:
        for one in coming[:at_once]:
            engine.add(one)
        coming = coming[at_once:]
        for event in engine.step():
            if isinstance(event, ipt.TextDelta):
                assert event.text
                streamed[event.request_id] += event.text
            else:
                finished[event.request_id] = event
    assert {key: event.text for key, event in finished.items()} == streamed
    return finished


def texts(finished: dict[str, ipt.TextFinished]) -> dict[str, str]:
    return {key: event.text for key, event in finished.items()}
