"""The writer with an engine that counts: turns of tenants, the reserved rows, and capacity that is given back."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

import ipt
from app.fairness.shared_capacity import SharedCapacity
from app.generations.writer import Writer, reserved_rows

BATCH_ROWS = 8


class Engine:
    """Ends each text after `max_new_tokens` steps, of which `permits` says how many it may run."""

    row_limit = BATCH_ROWS
    prompts = SimpleNamespace(hits=0, misses=0)

    def __init__(self) -> None:
        self.added: list[str] = []
        self.running: dict[str, int] = {}
        self.most_rows = 0
        self.permits = 0

    @property
    def idle(self) -> bool:
        return not self.running

    @property
    def last_rows(self) -> int:
        return len(self.running)

    def check(self, parameters: ipt.GenerationParameters) -> None:
        pass

    def add(self, request: ipt.GenerationRequest) -> None:
        self.added.append(request.request_id)
        self.running[request.request_id] = request.parameters.max_new_tokens

    def cancel(self, request_id: str) -> None:
        if request_id in self.running:
            self.running[request_id] = 0

    def step(self) -> list[ipt.GenerationEvent]:
        if not self.permits and all(self.running.values()):
            time.sleep(0.001)
            return []
        self.permits = max(0, self.permits - 1)
        self.most_rows = max(self.most_rows, len(self.running))
        self.running = {request_id: left - 1 for request_id, left in self.running.items()}
        ended = [request_id for request_id, left in self.running.items() if left <= 0]
        for request_id in ended:
            del self.running[request_id]
        return [ipt.TextFinished(request_id, "length", "", 0, 0, False) for request_id in ended]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def capacity() -> SharedCapacity:
    return SharedCapacity(1000, RuntimeError)


@pytest.fixture
def writer(engine: Engine, capacity: SharedCapacity) -> Iterator[Writer]:
    writer = Writer(cast(Any, engine), capacity, batch_rows=BATCH_ROWS)
    yield writer
    writer.close()


@pytest.fixture
def submit(writer: Writer, capacity: SharedCapacity) -> Callable[..., list[str]]:
    """Submit texts of a tenant, and return their ids."""

    def submit(tenant_id: str, name: str, texts: int, tokens: int = 64) -> list[str]:
        parameters = ipt.GenerationParameters(max_new_tokens=tokens)
        ids = [f"{name}{number}" for number in range(texts)]
        capacity.take(tenant_id, texts)
        task = cast(ipt.BoundTask, None)
        writer.submit(
            tenant_id, [(ipt.GenerationRequest(each, task, "text", parameters), lambda _: None) for each in ids]
        )
        return ids

    return submit


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_tenant_alone_fills_the_batch(engine: Engine, submit: Callable[..., list[str]]) -> None:
    submit("a", "a", 3 * BATCH_ROWS)
    engine.permits = 64 * 3
    until(lambda: len(engine.added) == 3 * BATCH_ROWS and engine.idle)
    assert engine.most_rows == BATCH_ROWS


def test_a_text_of_another_tenant_starts_in_the_reserve(engine: Engine, submit: Callable[..., list[str]]) -> None:
    submit("a", "a", 5 * BATCH_ROWS)
    until(lambda: len(engine.added) == BATCH_ROWS)
    first, _ = submit("b", "b", 2)
    until(lambda: len(engine.added) == BATCH_ROWS + reserved_rows(BATCH_ROWS))
    assert engine.added[-1] == first
    assert len(engine.running) == BATCH_ROWS + reserved_rows(BATCH_ROWS)
    time.sleep(0.02)
    assert len(engine.added) == BATCH_ROWS + 1, "its second text waits for its turn"


def test_tenants_take_turns_by_the_tokens_that_they_ask_for(engine: Engine, submit: Callable[..., list[str]]) -> None:
    submit("first", "f", BATCH_ROWS)
    until(lambda: len(engine.added) == BATCH_ROWS)
    submit("long", "l", 12, tokens=256)
    submit("short", "s", 12, tokens=64)
    until(lambda: len(engine.added) == BATCH_ROWS + 1)  # in the reserve
    engine.permits = 64
    until(lambda: len(engine.added) >= 2 * BATCH_ROWS)
    started = "".join(request_id[0] for request_id in engine.added[BATCH_ROWS:])
    assert started[:6] == "lssssl"


@pytest.mark.parametrize("running", [True, False])
def test_the_rows_of_cancelled_texts_are_given_back(
    engine: Engine, writer: Writer, capacity: SharedCapacity, submit: Callable[..., list[str]], running: bool
) -> None:
    if not running:
        submit("first", "f", BATCH_ROWS)
        until(lambda: len(engine.added) == BATCH_ROWS)
    ids = submit("a", "a", 4)
    until(lambda: len(engine.added) == (4 if running else BATCH_ROWS + 1))
    writer.cancel(ids)
    until(lambda: not capacity._used["a"])
    assert set(engine.running) == ({*()} if running else {f"f{number}" for number in range(BATCH_ROWS)})
