"""What waits at once is answered at once, and nobody pays for a neighbour: the coalescer, with a function behind it."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy.exc import OperationalError

from app.db.coalescer import Coalescer, CoalescerClosedError
from app.errors import NotFoundError


class Recorder:
    """Answers in capitals and keeps what was asked together; stops at `gate` while it is closed."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, questions: Sequence[str]) -> list[str | Exception]:
        self.asked.append(list(questions))
        self.gate.wait()
        if "bad" in questions:
            raise ValueError("bad")
        if "away" in questions:
            raise OperationalError("select", {}, OSError())
        return [NotFoundError("none", code="none") if one == "unknown" else one.upper() for one in questions]

    def wait_until_asked(self) -> None:
        deadline = time.monotonic() + 10
        while not self.asked:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def coalescer(recorder: Recorder) -> Iterator[Coalescer[str, str]]:
    made = Coalescer[str, str](recorder, name="test", most=3)
    yield made
    recorder.gate.set()
    made.close()


@pytest.fixture
def busy(coalescer: Coalescer[str, str], recorder: Recorder) -> Coalescer[str, str]:
    """One that answers a first question until the gate opens."""
    recorder.gate.clear()
    coalescer.ask("first")
    recorder.wait_until_asked()
    return coalescer


def test_what_came_meanwhile_is_asked_together_up_to_a_limit(busy: Coalescer[str, str], recorder: Recorder) -> None:
    futures = [busy.ask(one) for one in "abcd"]
    recorder.gate.set()
    assert [future.result(10) for future in futures] == ["A", "B", "C", "D"]
    assert recorder.asked == [["first"], ["a", "b", "c"], ["d"]]


def test_a_large_question_leaves_no_room_for_others(busy: Coalescer[str, str], recorder: Recorder) -> None:
    futures = [busy.ask("a"), busy.ask("wide", size=2), busy.ask("b"), busy.ask("wider", size=9), busy.ask("c")]
    recorder.gate.set()
    assert [future.result(10) for future in futures] == ["A", "WIDE", "B", "WIDER", "C"]
    assert recorder.asked == [["first"], ["a", "wide"], ["b"], ["wider"], ["c"]]


def test_an_error_is_raised_for_the_question_that_it_is_about(busy: Coalescer[str, str], recorder: Recorder) -> None:
    unknown, known = busy.ask("unknown"), busy.ask("a")
    recorder.gate.set()
    assert known.result(10) == "A"
    with pytest.raises(NotFoundError):
        unknown.result(10)
    assert recorder.asked == [["first"], ["unknown", "a"]]


def test_what_fails_together_is_asked_alone(busy: Coalescer[str, str], recorder: Recorder) -> None:
    bad, good = busy.ask("bad"), busy.ask("a")
    recorder.gate.set()
    assert good.result(10) == "A"
    with pytest.raises(ValueError, match="bad"):
        bad.result(10)
    assert recorder.asked == [["first"], ["bad", "a"], ["bad"], ["a"]]


def test_a_database_that_is_away_is_not_asked_again_for_each(busy: Coalescer[str, str], recorder: Recorder) -> None:
    futures = [busy.ask("away"), busy.ask("a")]
    recorder.gate.set()
    for future in futures:
        with pytest.raises(OperationalError):
            future.result(10)
    assert recorder.asked == [["first"], ["away", "a"]]


def test_a_question_that_was_taken_back_is_not_asked(busy: Coalescer[str, str], recorder: Recorder) -> None:
    gone, there = busy.ask("gone"), busy.ask("a")
    assert gone.cancel()
    recorder.gate.set()
    assert there.result(10) == "A"
    assert recorder.asked == [["first"], ["a"]]


def test_closing_answers_what_was_asked_and_takes_nothing_more(coalescer: Coalescer[str, str]) -> None:
    future = coalescer.ask("a")
    coalescer.close()
    assert future.result(0) == "A"
    with pytest.raises(CoalescerClosedError):
        coalescer.ask("b")
