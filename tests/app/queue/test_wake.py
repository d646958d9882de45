"""Wake-up messages: each is sent, and a broker that hangs delays no one."""

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from app.queue import wake
from app.queue.wake import WAKE_QUEUE, WAKE_TASK, Waker

request: ContextVar[str] = ContextVar("request", default="none")


class Producer:
    """Records messages with their request; fails or blocks like a broker."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.attempts = 0
        self.down = False
        self.gate = threading.Event()
        self.gate.set()

    def send_task(self, name: str, *, queue: str, **_: Any) -> None:
        assert (name, queue) == (WAKE_TASK, WAKE_QUEUE)
        self.attempts += 1
        self.gate.wait()
        if self.down:
            raise ConnectionError
        self.sent.append(request.get())


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    producer = Producer()
    monkeypatch.setattr(wake, "_producer", lambda _: producer)
    yield producer
    producer.gate.set()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_every_message_is_sent_in_the_context_of_its_request(producer: Producer) -> None:
    waker = Waker("redis://")
    for name in ("first", "second"):
        request.set(name)
        waker.wake()
    waker.close()
    assert producer.sent == ["first", "second"]


def test_a_broker_that_hangs_delays_no_request_and_memory_is_bounded(producer: Producer) -> None:
    producer.gate.clear()
    waker = Waker("redis://")
    for _ in range(10_000):
        waker.wake()
    assert producer.attempts <= 1
    producer.gate.set()
    waker.close()
    assert len(producer.sent) <= 101


def test_a_broker_that_is_down_gets_no_messages_for_a_while(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "RETRY_SECONDS", 60)
    producer.down = True
    waker = Waker("redis://")
    for _ in range(5):
        waker.wake()
    until(lambda: producer.attempts > 0)
    time.sleep(0.05)
    assert producer.attempts == 1
    producer.down = False
    waker.close()
    assert len(producer.sent) == 4
