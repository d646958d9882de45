"""What people see of answers and of progress, on a terminal and without one."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from app.cli.output import program
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


def test_commands_to_try_are_called_as_this_one_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*original: str, script: str) -> str:
        monkeypatch.setattr(sys, "orig_argv", list(original))
        monkeypatch.setattr(sys, "argv", [script])
        return program()

    installed = tmp_path / "ipt"
    installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    assert called("python", str(installed), script=str(installed)) == str(installed)
    assert called("python", ".venv/bin/ipt", script=".venv/bin/ipt") == ".venv/bin/ipt"
    assert called("python", "my venv/ipt", script="my venv/ipt") == "'my venv/ipt'"
    module = "/somewhere/app/cli/__main__.py"
    assert called(".venv/bin/python", "-m", "app.cli", script=module) == ".venv/bin/python -m app.cli"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert called("python", str(installed), script=str(installed)) == "ipt"
