"""Several tenants: the limit before any work, turns in the tokenizer, and no work for callers who have gone."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast
from unittest.mock import MagicMock, Mock

import pytest

import ipt
from app.errors import BusyError, NotFoundError
from app.predictions.lane import CHARS_PER_TOKENIZATION
from app.predictions.service import Predictions
from app.predictions.task_lookup import FoundTasks, Question
from app.predictions.thresholds import Thresholds
from app.settings import Settings

LONG = "x" * 10_000


class Predictor:
    """Answers each text with its length; `read` records its texts and blocks while `gate` is closed."""

    prompt_positions = 16

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.began = threading.Event()
        self.gate = threading.Event()

    def read(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        self.calls.append(list(texts))
        self.began.set()
        assert self.gate.wait(30)
        return [([len(text)], False) for text in texts]

    def predict(self, rows: Sequence[tuple[Any, list[int]]]) -> list[ipt.Prediction]:
        return [ipt.Prediction(text=str(ids[0])) for _, ids in rows]


class Lookup:
    """Finds every task but "unknown"; `tenants` records who asked."""

    def __init__(self) -> None:
        self.tenants: list[str] = []

    def find(self, tenant_id: str, questions: Sequence[Question], *, canaries: bool = True) -> "Future[FoundTasks]":
        self.tenants.append(tenant_id)
        future: Future[FoundTasks] = Future()
        if questions[0].task_id == "unknown":
            future.set_exception(NotFoundError("none", code="none"))
        else:
            future.set_result(
                FoundTasks(*([each] * len(questions) for each in (("task", 1), Mock(), [9], Thresholds())))
            )
        return future


@pytest.fixture
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture
def lookup() -> Lookup:
    return Lookup()


@pytest.fixture
def predictions(predictor: Predictor, lookup: Lookup) -> Iterator[Predictions]:
    settings = Settings(predict_queue_rows=40, predict_wait_ms=0)
    models = MagicMock(all=[MagicMock(predictor=predictor)])
    predictions = Predictions(settings, cast(Any, models), cast(Any, lookup), MagicMock(), MagicMock())
    yield predictions
    predictor.gate.set()
    predictions.close()


def questions(*texts: str, task_id: str = "task") -> list[Question]:
    return [Question(task_id, None, text, "task_id") for text in texts]


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(main())


async def ask_in_background(
    predictions: Predictions, predictor: Predictor, asked: list[Question]
) -> "asyncio.Task[Any]":
    """Ask as the tenant "a", and wait until the first of the texts are being tokenized."""
    task = asyncio.create_task(predictions.ask("a", asked))
    await asyncio.to_thread(predictor.began.wait, 30)
    return task


def test_a_flood_is_refused_before_any_work_and_another_tenant_is_answered(
    predictions: Predictions, predictor: Predictor, lookup: Lookup
) -> None:
    async def work() -> None:
        flood = await ask_in_background(predictions, predictor, questions(*["flood"] * 20))
        for _ in range(3):
            with pytest.raises(BusyError) as caught:
                await predictions.ask("a", questions("one more"))
            assert (caught.value.code, caught.value.retry_after) == ("prediction_queue_full", 1)
        other = asyncio.create_task(predictions.ask("b", questions("other")))
        await asyncio.sleep(0)
        assert lookup.tenants == ["a", "b"]
        predictor.gate.set()
        assert (await other).answer.predictions[0].text == "5"
        assert len((await flood).answer.predictions) == 20
        assert predictor.calls == [["flood"] * 20, ["other"]]
        assert len((await predictions.ask("a", questions("again"))).keys) == 1

    run(work)


def test_a_short_text_is_tokenized_between_the_long_texts_of_another_tenant(
    predictions: Predictions, predictor: Predictor
) -> None:
    async def work() -> None:
        flood = await ask_in_background(predictions, predictor, questions(*[LONG] * 20))
        other = asyncio.create_task(predictions.ask("b", questions("other")))
        await asyncio.sleep(0)
        predictor.gate.set()
        await asyncio.gather(flood, other)
        assert "other" in predictor.calls[1] + predictor.calls[2]
        assert all(sum(map(len, call)) <= CHARS_PER_TOKENIZATION for call in predictor.calls)
        assert sum(map(len, predictor.calls)) == 21

    run(work)


def test_the_remaining_texts_of_a_caller_who_has_gone_are_not_tokenized(
    predictions: Predictions, predictor: Predictor
) -> None:
    async def work() -> None:
        flood = await ask_in_background(predictions, predictor, questions(*[LONG] * 20))
        flood.cancel()
        await asyncio.wait([flood])
        predictor.gate.set()
        assert len((await predictions.ask("a", questions(*["again"] * 20))).keys) == 20
        assert predictor.calls == [[LONG], ["again"] * 20]

    run(work)


def test_the_remaining_texts_of_a_failed_request_are_not_tokenized(
    predictions: Predictions, predictor: Predictor
) -> None:
    async def work() -> None:
        with pytest.raises(NotFoundError):
            await predictions.ask("a", questions(*[LONG] * 20, task_id="unknown"))
        await asyncio.sleep(0)  # the event loop passes the cancellation on to the thread
        predictor.gate.set()
        assert len((await predictions.ask("a", questions(*["again"] * 20))).keys) == 20
        assert len(predictor.calls) <= 2

    run(work)
