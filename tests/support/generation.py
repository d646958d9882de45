"""Requests to a generation engine, and running it to the end."""

from typing import Any

import numpy as np

import ipt
from ipt.prediction.tasks import bind

INPUTS = ["hello world", "the cat sat on the mat and the dog was not happy with it", "i love my phone", "me"]


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
