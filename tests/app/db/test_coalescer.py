"""The coalescer answers waiting questions together, and one bad question does not fail the others."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy.exc import OperationalError

from app.db.coalescer import Coalescer, CoalescerClosedError
from app.errors import NotFoundError


class Recorder:
    """Answers in upper case and records the questions of each call; blocks while `gate` is closed."""

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
        return [
            NotFoundError("none", code="none") if question == "unknown" else question.upper() for question in questions
        ]

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
    coalescer = Coalescer[str, str](recorder, name="test", most=3)
    yield coalescer
    recorder.gate.set()
    coalescer.close()


@pytest.fixture
def busy(coalescer: Coalescer[str, str], recorder: Recorder) -> Coalescer[str, str]:
    """A coalescer that answers a first question until the gate opens."""
    recorder.gate.clear()
    coalescer.ask("first")
    recorder.wait_until_asked()
    return coalescer


def test_questions_that_arrive_meanwhile_are_asked_together_up_to_a_limit(
    busy: Coalescer[str, str], recorder: Recorder
) -> None:
    futures = [busy.ask(question) for question in "abcd"]
    recorder.gate.set()
    assert [future.result(10) for future in futures] == ["A", "B", "C", "D"]
    assert recorder.asked == [["first"], ["a", "b", "c"], ["d"]]


def test_a_large_question_leaves_no_room_for_others(busy: Coalescer[str, str], recorder: Recorder) -> None:
    futures = [busy.ask("a"), busy.ask("wide", size=2), busy.ask("b"), busy.ask("wider", size=9), busy.ask("c")]
    recorder.gate.set()
    assert [future.result(10) for future in futures] == ["A", "WIDE", "B", "WIDER", "C"]
    assert recorder.asked == [["first"], ["a", "wide"], ["b"], ["wider"], ["c"]]


def test_an_error_is_raised_only_for_its_question(busy: Coalescer[str, str], recorder: Recorder) -> None:
    unknown, known = busy.ask("unknown"), busy.ask("a")
    recorder.gate.set()
    assert known.result(10) == "A"
    with pytest.raises(NotFoundError):
        unknown.result(10)
    assert recorder.asked == [["first"], ["unknown", "a"]]


def test_questions_that_fail_together_are_asked_one_by_one(busy: Coalescer[str, str], recorder: Recorder) -> None:
    bad, good = busy.ask("bad"), busy.ask("a")
    recorder.gate.set()
    assert good.result(10) == "A"
    with pytest.raises(ValueError, match="bad"):
        bad.result(10)
    assert recorder.asked == [["first"], ["bad", "a"], ["bad"], ["a"]]


def test_an_unreachable_database_is_not_asked_again_for_each_question(
    busy: Coalescer[str, str], recorder: Recorder
) -> None:
    futures = [busy.ask("away"), busy.ask("a")]
    recorder.gate.set()
    for future in futures:
        with pytest.raises(OperationalError):
            future.result(10)
    assert recorder.asked == [["first"], ["away", "a"]]


def test_a_cancelled_question_is_not_asked(busy: Coalescer[str, str], recorder: Recorder) -> None:
    cancelled, kept = busy.ask("gone"), busy.ask("a")
    assert cancelled.cancel()
    recorder.gate.set()
    assert kept.result(10) == "A"
    assert recorder.asked == [["first"], ["a"]]


def test_close_answers_queued_questions_and_rejects_new_ones(coalescer: Coalescer[str, str]) -> None:
    future = coalescer.ask("a")
    coalescer.close()
    assert future.result(0) == "A"
    with pytest.raises(CoalescerClosedError):
        coalescer.ask("b")
