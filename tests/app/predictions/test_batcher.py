"""The batcher with a function as its model: which rows share a batch, and isolation of failures."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch

import ipt
from app.errors import UnavailableError
from app.predictions.batcher import MIN_BATCH_TOKENS, Batcher, PredictionFailedError, Row

Predict = Callable[[Sequence[Row]], Sequence[ipt.Prediction]]
NewBatcher = Callable[..., Batcher]


def text_of(ids: list[int]) -> str:
    return "".join(map(chr, ids))


class Recorder:
    """Answers each text with itself, records batches, fails on "bad" and "large", and blocks at a closed `gate`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, rows: Sequence[Row]) -> list[ipt.Prediction]:
        self.batches.append([text_of(ids) for _, ids in rows])
        self.gate.wait()
        if "bad" in self.batches[-1]:
            raise RuntimeError("bad")
        if "large" in self.batches[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [ipt.Prediction(text=text) for text in self.batches[-1]]


@pytest.fixture
def model() -> Recorder:
    return Recorder()


@pytest.fixture
def new_batcher(model: Recorder) -> Iterator[NewBatcher]:
    batchers: list[Batcher] = []

    def new_batcher(**changes: Any) -> Batcher:
        batchers.append(Batcher(model, **({"wait_seconds": 0.2, "batch_rows": 8, "batch_tokens": 10**6} | changes)))
        return batchers[-1]

    yield new_batcher
    model.gate.set()
    for batcher in batchers:
        batcher.close()


def rows(*texts: str) -> list[Row]:
    """Rows with one token for each character."""
    return [(cast("ipt.BoundTask", None), [ord(letter) for letter in text]) for text in texts]


def texts(future: Any) -> list[str]:
    return [prediction.text for prediction in future.result(timeout=10).predictions]


def test_concurrent_requests_share_a_batch(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher()
    futures = [batcher.submit("a", rows(f"a{n}", f"b{n}"), 16) for n in range(3)]
    assert [texts(future) for future in futures] == [["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]
    assert model.batches == [["a0", "b0", "a1", "b1", "a2", "b2"]]


def test_a_full_batch_does_not_wait(new_batcher: NewBatcher) -> None:
    batcher = new_batcher(wait_seconds=30)
    start = time.monotonic()
    texts(batcher.submit("a", rows(*"12345678"), 16))
    assert time.monotonic() - start < 10


def test_waiting_for_a_busy_model_counts_as_waiting(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=1.5)
    model.gate.clear()
    first = batcher.submit("a", rows("first"), 16)
    while not model.batches:
        time.sleep(0.001)
    second = batcher.submit("a", rows("second"), 16)
    time.sleep(1.6)
    freed = time.monotonic()
    model.gate.set()
    assert (texts(first), texts(second)) == (["first"], ["second"])
    assert time.monotonic() - freed < 1.0


def answer_together(batcher: Batcher, model: Recorder, seconds: float, *requests: str) -> None:
    """Answer requests, with one row for each letter, in one batch that takes this long."""
    model.gate.clear()
    futures = [batcher.submit("a", rows(*request), 16) for request in requests]
    time.sleep(seconds)
    model.gate.set()
    for future in futures:
        texts(future)
    assert len(model.batches[0]) == min(8, len("".join(requests)))
    model.batches.clear()


def test_callers_answered_together_share_the_next_batch(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0.05, patience=50)
    answer_together(batcher, model, 0.2, "a", "bc", "d")
    again = []
    for name in "efg":
        again.append(batcher.submit("a", rows(name), 16))
        time.sleep(0.2)
    assert [texts(future) for future in again] == [["e"], ["f"], ["g"]]
    assert model.batches == [["e", "f", "g"]]


def test_waiting_for_returning_callers_is_limited(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0.1, patience=0.5)
    answer_together(batcher, model, 0.5, "a", "b")
    start = time.monotonic()
    assert texts(batcher.submit("a", rows("c"), 16)) == ["c"]
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("requests", [["a"], ["abcdefghij"]])
def test_no_batch_waits_for_a_single_returning_caller(
    new_batcher: NewBatcher, model: Recorder, requests: list[str]
) -> None:
    batcher = new_batcher(wait_seconds=0.1, patience=1000)
    answer_together(batcher, model, 0.3, *requests)
    start = time.monotonic()
    assert texts(batcher.submit("a", rows("x"), 16)) == ["x"]
    assert time.monotonic() - start < 10


def test_a_full_batch_does_not_wait_for_returning_callers(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0.1, patience=1000, batch_tokens=3 * (10 + 16))
    answer_together(batcher, model, 0.3, "ab", "c")
    start = time.monotonic()
    assert [texts(batcher.submit("a", rows(*["x" * 10] * 3), 16))] == [["x" * 10] * 3]
    assert time.monotonic() - start < 10


def test_waiting_for_the_task_lookup_counts_as_waiting(new_batcher: NewBatcher) -> None:
    answered = new_batcher(wait_seconds=30).submit("a", rows("a"), 16, time.monotonic() - 30)
    assert texts(answered) == ["a"]


def test_a_large_request_is_answered_in_order_over_several_batches(new_batcher: NewBatcher, model: Recorder) -> None:
    names = [str(n) for n in range(20)]
    answer = new_batcher(wait_seconds=0).submit("a", rows(*names), 16).result(timeout=10)
    assert [prediction.text for prediction in answer.predictions] == names
    assert [len(batch) for batch in model.batches] == [8, 8, 4]
    assert answer.queue_seconds >= 0
    assert answer.inference_seconds > 0


def test_other_requests_run_between_the_batches_of_a_large_one(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0)
    model.gate.clear()
    names = [str(n) for n in range(40)]
    large = batcher.submit("a", rows(*names), 16)
    while not model.batches:
        time.sleep(0.001)
    small = [batcher.submit("a", rows(f"small {n}"), 16) for n in range(2)]
    model.gate.set()
    assert [texts(future) for future in (*small, large)] == [["small 0"], ["small 1"], names]
    assert model.batches[1][:2] == ["small 0", "small 1"]


def test_batches_are_limited_by_tokens_including_prompts(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0, batch_tokens=3 * (100 + 16))
    long = ["x" * 99 + str(n) for n in range(7)]
    assert texts(batcher.submit("a", rows(*long), 16)) == long
    assert [len(batch) for batch in model.batches] == [3, 3, 1]
    model.batches.clear()
    assert texts(batcher.submit("a", rows(*long), 17)) == long
    assert [len(batch) for batch in model.batches] == [2, 2, 2, 1]
    model.batches.clear()
    assert texts(new_batcher(wait_seconds=0, batch_tokens=1).submit("a", rows("a", "b"), 16)) == ["a", "b"]
    assert [len(batch) for batch in model.batches] == [1, 1]


@pytest.mark.parametrize("seconds_per_token", [0.0, 0.001])
def test_batches_of_a_slow_model_are_small(model: Recorder, seconds_per_token: float) -> None:
    def predict(batch: Sequence[Row]) -> Sequence[ipt.Prediction]:
        time.sleep(seconds_per_token * sum(len(ids) + 16 for _, ids in batch))
        return model(batch)

    batcher = Batcher(predict, wait_seconds=0, batch_rows=128, batch_tokens=4096, batch_seconds=lambda: 0.1)
    try:
        names = ["x" * 98 + f"{number:02}" for number in range(60)]
        assert texts(batcher.submit("a", rows(*names), 16)) == names
    finally:
        batcher.close()
    sizes = [len(batch) for batch in model.batches]
    fitting = MIN_BATCH_TOKENS // 116
    assert sizes[0] == fitting
    if seconds_per_token:
        assert set(sizes) == {fitting}
    else:
        assert 10 * fitting < max(sizes) <= 4096 // 116


def test_a_failing_request_does_not_fail_others(new_batcher: NewBatcher) -> None:
    batcher = new_batcher()
    before, bad, after = (batcher.submit("a", rows(*names), 16) for names in (["x", "y"], ["z", "bad"], ["w"]))
    assert (texts(before), texts(after)) == (["x", "y"], ["w"])
    with pytest.raises(PredictionFailedError):
        bad.result(timeout=10)
    assert texts(batcher.submit("a", rows("later"), 16)) == ["later"]


def test_a_request_too_large_for_memory_may_be_retried(new_batcher: NewBatcher) -> None:
    batcher = new_batcher()
    large, small = batcher.submit("a", rows("large"), 16), batcher.submit("a", rows("x"), 16)
    assert texts(small) == ["x"]
    with pytest.raises(UnavailableError) as caught:
        large.result(timeout=10)
    assert (caught.value.code, caught.value.retry_after) == ("out_of_memory", 5)


def test_a_failing_part_fails_its_request_only(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0, batch_rows=2)
    bad, after = batcher.submit("a", rows("bad", *"bcdefgh"), 16), batcher.submit("a", rows("x"), 16)
    with pytest.raises(PredictionFailedError):
        bad.result(timeout=10)
    assert texts(after) == ["x"]
    assert ["g", "h"] not in model.batches


def test_a_flooding_tenant_does_not_delay_another(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0, batch_rows=128, batch_tokens=4096)
    model.gate.clear()
    flood = [batcher.submit("flooding", rows(*["x" * 240] * 256), 16) for _ in range(4)]
    while not model.batches:
        time.sleep(0.001)
    single = batcher.submit("other", rows("single"), 16)
    model.gate.set()
    assert texts(single) == ["single"]
    for future in flood:
        assert len(texts(future)) == 256
    assert "single" in model.batches[1]
    # 16 rows of 256 tokens fill a batch, and 15 fit next to the other tenant's row.
    assert [len(batch) for batch in model.batches] == [16, 16, *[16] * 62, 1]


def test_tenants_get_equal_shares_of_a_batch_in_tokens(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0, batch_rows=1000, batch_tokens=8192)
    model.gate.clear()
    batcher.submit("a", rows("first"), 16)
    while not model.batches:
        time.sleep(0.001)
    lengths = {"long": 512, "middle": 128, "short": 32}
    for tenant, tokens in lengths.items():
        batcher.submit(tenant, rows(*[tenant[0] * (tokens - 16)] * 400), 16)
    model.gate.set()
    while len(model.batches) < 2:
        time.sleep(0.001)
    shares = {
        tenant: sum(tokens for text in model.batches[1] if text[0] == tenant[0]) for tenant, tokens in lengths.items()
    }
    assert sum(shares.values()) > 8192 - 512
    assert max(shares.values()) - min(shares.values()) <= 512 + 256
    batcher.close()


def test_a_tenant_alone_fills_its_batches(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0)
    model.gate.clear()
    futures = [batcher.submit("a", rows("0"), 16)]
    while not model.batches:
        time.sleep(0.001)
    futures += [batcher.submit("a", rows(*"123"), 16) for _ in range(8)]
    model.gate.set()
    for future in futures:
        texts(future)
    assert [len(batch) for batch in model.batches] == [1, 8, 8, 8]


def test_rows_of_disconnected_callers_are_not_computed(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0, batch_rows=2)
    model.gate.clear()
    batcher.submit("a", rows("0"), 16)
    while not model.batches:
        time.sleep(0.001)
    cancelled, kept = batcher.submit("a", rows("a", "b"), 16), batcher.submit("a", rows("c"), 16)
    assert cancelled.cancel()
    model.gate.set()
    assert texts(kept) == ["c"]
    assert model.batches == [["0"], ["c"]]


def test_closing_finishes_the_running_batch_and_fails_the_queue(new_batcher: NewBatcher, model: Recorder) -> None:
    batcher = new_batcher(wait_seconds=0, batch_rows=1)
    model.gate.clear()
    running = batcher.submit("a", rows("running"), 16)
    while not model.batches:
        time.sleep(0.001)
    waiting = batcher.submit("a", rows("waiting"), 16)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.gate.set()
    closing.join(timeout=10)
    assert texts(running) == ["running"]
    with pytest.raises(UnavailableError):
        waiting.result(timeout=10)
    with pytest.raises(UnavailableError):
        batcher.submit("a", rows("late"), 16)
