"""Tables of predictions, progress with and without a terminal, and suggested commands."""

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
def test_labels_and_their_heading_are_not_truncated(label: str) -> None:
    shown = printed(predictions_table(["some text"], [{"label": label, "scores": {label: 1.0}}], 60), 60)
    heading, row = shown.splitlines()
    assert heading.split() == ["answer", "score", "text"]
    assert row.startswith(label)
    assert row.split()[-2:] == ["some", "text"]


@pytest.mark.parametrize(("terminal", "shown"), [(True, "27/27"), (False, "succeeded: step 27 of 40")])
def test_early_stopping_completes_the_progress_without_more_steps(terminal: bool, shown: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with adaptation_progress(console) as show:
        for state in ("running", "succeeded"):
            show({"state": state, "progress": {"step": 27, "steps": 40}})
    assert isinstance(console.file, io.StringIO)
    assert shown in console.file.getvalue()


def test_suggested_commands_use_the_current_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program_of(*original: str, script: str) -> str:
        monkeypatch.setattr(sys, "orig_argv", list(original))
        monkeypatch.setattr(sys, "argv", [script])
        return program()

    installed = tmp_path / "ipt"
    installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    assert program_of("python", str(installed), script=str(installed)) == str(installed)
    assert program_of("python", ".venv/bin/ipt", script=".venv/bin/ipt") == ".venv/bin/ipt"
    assert program_of("python", "my venv/ipt", script="my venv/ipt") == "'my venv/ipt'"
    module = "/somewhere/app/cli/__main__.py"
    assert program_of(".venv/bin/python", "-m", "app.cli", script=module) == ".venv/bin/python -m app.cli"
    in_wheel = ("python", "-m", "ipt_service.app.cli")
    assert program_of(*in_wheel, script=module) == "python -m ipt_service.app.cli"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_of("python", str(installed), script=str(installed)) == "ipt"
