"""What people see of answers and of progress, on a terminal and without one."""

import io

import pytest
from rich.console import Console

from app.cli.progress import adaptation_progress
from app.cli.tasks import predictions_table


def printed(table: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("label", ["x", "a longer label", "質問と答え"])
def test_labels_and_their_heading_are_not_cut(label: str) -> None:
    shown = printed(predictions_table(["some text"], [{"label": label, "scores": {label: 1.0}}], 60), 60)
    heading, row = shown.splitlines()
    assert heading.split() == ["answer", "score", "text"]
    assert row.startswith(label)
    assert row.split()[-2:] == ["some", "text"]


@pytest.mark.parametrize(("terminal", "said"), [(True, "27/27"), (False, "succeeded: step 27 of 40")])
def test_tuning_that_stopped_early_is_at_its_end_and_claims_no_more_steps(terminal: bool, said: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with adaptation_progress(console) as show:
        for state in ("running", "succeeded"):
            show({"state": state, "progress": {"step": 27, "steps": 40}})
    assert isinstance(console.file, io.StringIO)
    assert said in console.file.getvalue()
