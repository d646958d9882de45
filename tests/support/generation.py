"""Requests to a generation engine, and running it until it is idle."""

from typing import Any

import numpy as np

import ipt
from ipt.prediction.task_head import bind

INPUTS = ["hello world", "the cat sat on the mat and the dog was not happy with it", "i love my phone", "me"]


def task(engine: ipt.GenerationEngine, number: int) -> ipt.BoundTask:
    """Return the task of a number; each writes different texts."""
    vector = np.random.default_rng(number).normal(size=8).astype(np.float32) * 3
    return bind(ipt.TaskHead(vector, engine.subspace.id, "text2text", (), None), engine.subspace)


def make_request(engine: ipt.GenerationEngine, number: int = 0, **parameters: Any) -> ipt.GenerationRequest:
    """Return the request of a number: greedy decoding of a number of tokens, unless `parameters` differ."""
    generation_parameters = ipt.GenerationParameters(**({"max_new_tokens": 6 + 3 * (number % 4)} | parameters))
    return ipt.GenerationRequest(f"r{number}", task(engine, number % 3), INPUTS[number % 4], generation_parameters)


def run(
    engine: ipt.GenerationEngine, requests: list[ipt.GenerationRequest], *, per_step: int = 100
) -> dict[str, ipt.TextFinished]:
    """Return the finished texts by request id; each step adds `per_step` requests. Checks the streamed pieces."""
    remaining, finished = list(requests), {}
    streamed = {each.request_id: "" for each in requests}
    while remaining or not engine.idle:
        for each in remaining[:per_step]:
            engine.add(each)
        remaining = remaining[per_step:]
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
