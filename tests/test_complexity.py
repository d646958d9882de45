"""Twice the input costs at most 2.3 times the work, in every dimension in which a caller can make an input large.

Work is counted in executed bytecode instructions, which no other load of the machine changes. Work within a function
written in C is not counted; calls of such functions that could be quadratic have tests that count elements or bytes.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from app.fairness.fair_queue import FairQueue
from app.http.unread_responses import UnreadResponse, UnreadResponses
from app.predictions.answer_size import prediction_bytes
from ipt.data.examples import Example
from ipt.data.files.reader import read_dataset
from ipt.data.json_structure import check_structure
from ipt.data.near_duplicates import near_duplicate_groups
from ipt.data.preparation import prepare

MOST = 2.3
SIZE = 100

Work = Callable[[], object]


def instructions(work: Work) -> int:
    """Return how many bytecode instructions `work` executes in this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def csv_rows(size: int) -> Work:
    data = ("text,label\n" + "".join(f"text number {row},{'ab'[row % 2]}\n" for row in range(size))).encode()
    return lambda: read_dataset(data, format="csv")


def csv_columns(size: int) -> Work:
    names = ["text", "label", *(f"column {number}" for number in range(size))]
    lines = [",".join(f"{name} {row}" if row else name for name in names) for row in range(4)]
    data = "\n".join(lines).encode()
    return lambda: read_dataset(data, format="csv")


def json_lines(size: int) -> Work:
    rows = ({"text": f"text number {row}", "label": "ab"[row % 2]} for row in range(size))
    data = "\n".join(map(json.dumps, rows)).encode()
    return lambda: read_dataset(data, format="jsonl")


def json_fields(size: int) -> Work:
    row = {"text": "a text", "label": "a"} | {f"field {number}": number for number in range(size)}
    data = json.dumps([row, row | {"label": "b"}]).encode()
    return lambda: read_dataset(data, format="json")


def json_values(size: int) -> Work:
    text = json.dumps([[number, {"key": number}] for number in range(size)])
    return lambda: check_structure(text, max_values=10 * size)


def examples(size: int) -> list[Example]:
    return [Example(f"the {row}th text about {'xy'[row % 2]}", "ab"[row % 2]) for row in range(size)]


def rows_of_a_dataset(size: int) -> Work:
    rows = examples(size)
    return lambda: prepare(rows, rows[: size // 2])


def labels_of_a_dataset(size: int) -> Work:
    rows = [Example(f"text {row}", f"label {row // 2}") for row in range(2 * size)]
    return lambda: prepare(rows, kind="classification")


def spellings_of_labels(size: int) -> Work:
    labels = [f"label {row // 2}" for row in range(size)]
    rows = [Example(f"text {row}", label.upper() if row % 2 else label) for row, label in enumerate(labels)]
    return lambda: prepare(rows, kind="classification")


def characters_of_a_text(size: int) -> Work:
    rows = [Example(letter * 40 * size, letter) for letter in "abab"]
    return lambda: near_duplicate_groups(rows)


def different_texts(size: int) -> Work:
    rows = examples(size)
    return lambda: near_duplicate_groups(rows)


def texts_of_one_template(size: int) -> Work:
    rows = [Example(f"how is the weather in {'pqrs'[row % 4] * (row + 9)}", "a") for row in range(size)]
    return lambda: near_duplicate_groups(rows)


def words_of_similar_texts(size: int) -> Work:
    words = [f"{letter}{'xyz'[row % 3] * (row // 3 + 4)}" for row in range(size // 2) for letter in "kl"]
    rows = [Example(" ".join(words[:row] + words[row + 1 :]), "a") for row in range(4)]
    return lambda: near_duplicate_groups(rows)


def tenants_in_a_queue(size: int) -> Work:
    def work() -> None:
        queue: FairQueue[int] = FairQueue(quantum=1)
        for number in range(size):
            for _ in range(2):
                queue.append(f"tenant {number}", number)
        while queue:
            queue.pop(cost=2)

    return work


def entries_of_a_tenant(size: int) -> Work:
    def work() -> None:
        queue: FairQueue[int] = FairQueue(quantum=1)
        for number in range(size):
            queue.append("tenant", number)
        while queue:
            queue.pop(cost=1)

    return work


class Unread(asyncio.Transport):
    def get_write_buffer_size(self) -> int:
        return 1


def connections_that_do_not_read(size: int) -> Work:
    responses = [UnreadResponse(Unread(), now=0.0) for _ in range(size)]

    def work() -> None:
        unread = UnreadResponses()
        for response in responses:
            unread.add(response)

    return work


def labels_of_an_answer(size: int) -> Work:
    labels = tuple(f"label {number}" for number in range(size))
    return lambda: prediction_bytes(labels)


DIMENSIONS = (
    csv_rows,
    csv_columns,
    json_lines,
    json_fields,
    json_values,
    rows_of_a_dataset,
    labels_of_a_dataset,
    spellings_of_labels,
    characters_of_a_text,
    different_texts,
    texts_of_one_template,
    words_of_similar_texts,
    tenants_in_a_queue,
    entries_of_a_tenant,
    connections_that_do_not_read,
    labels_of_an_answer,
)


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda dimension: dimension.__name__)
def test_the_work_grows_in_proportion_to_the_input(dimension: Callable[[int], Work]) -> None:
    dimension(SIZE)()  # what is computed once
    once, twice = (instructions(dimension(size)) for size in (SIZE, 2 * SIZE))
    assert twice <= MOST * once, f"{twice / once:.2f} times the work"


def test_quadratic_work_is_noticed() -> None:
    def pairs(size: int) -> Work:
        return lambda: [(first, second) for first in range(size) for second in range(size)]

    assert instructions(pairs(2 * SIZE)) > 3.5 * instructions(pairs(SIZE))
