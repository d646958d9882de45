"""Which tasks can be measured, and on which of their rows."""

from dataclasses import replace

import pytest

import ipt
from ipt.measured_tasks import with_rows
from ipt.task_folder import FolderTask
from tests.ipt.conftest import sentiment


def test_a_task_that_the_fit_left_too_little_of_is_left_out_and_named() -> None:
    rows = tuple(sentiment(3))
    whole = FolderTask("sentiment", "opinion", rows[:20], rows[20:])
    label = whole.train[0].output
    without_a_label = replace(whole, name="torn", train=tuple(row for row in whole.train if row.output != label))
    used_up = replace(whole, name="empty", train=())
    left_out: list[str] = []
    assert with_rows([used_up, whole, without_a_label], 2, left_out) == [whole]
    assert left_out[0] == "empty: has no training rows to draw from that no fit has seen"
    assert left_out[1].startswith(f"torn: has test rows of {label!r}")
    with pytest.raises(ipt.DatasetError, match="no task can be measured with 2"):
        with_rows([used_up], 2, [])


def test_a_task_of_texts_with_fewer_rows_than_are_drawn_is_left_out_and_named() -> None:
    rows = tuple(ipt.Example(f"input {number}", f"text {number}") for number in range(12))
    enough = FolderTask("enough", "texts", rows[:10], rows[10:])
    short = replace(enough, name="short", train=rows[:9])
    left_out: list[str] = []
    assert with_rows([short, enough], 5, left_out) == [enough]
    assert left_out == ["short: has 9 training rows to draw from, fewer than 10"]
