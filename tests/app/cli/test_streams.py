"""Standard input and output of commands, mostly in a process of their own."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cli.standard_input import lines_from_stdin


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"caf\xe9\n", "it looks like windows-1252: convert it, or set PYTHONIOENCODING=windows-1252"),
        (
            b"caf\xff\xfe\x81\x00\n",
            "convert it to this encoding, or name its encoding in the variable PYTHONIOENCODING",
        ),
    ],
)
def test_standard_input_in_another_encoding_is_one_error_line(data: bytes, advice: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "app.cli", "predict", "tsk_any"],
        input=data,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.decode() == f"error: standard input is not valid UTF-8 at byte 4: {advice}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_on_standard_input_is_followed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "où est-il ?\r\n\r\nmerci\n".encode(encoding)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
    assert lines_from_stdin() == ["où est-il ?", "merci"]


def ipt(*arguments: str, before: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `ipt` in a process of its own, after the Python code `before`."""
    code = f"{before}\nfrom app.cli import main\nmain()"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, "-c", code, *arguments], text=True, check=False, **streams)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["settings", "settings --json", "--help"])
def test_a_full_disk_is_one_error_line(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = ipt(*command.split(), stdout=full)
    assert result.returncode == 1
    assert result.stderr == "error: the result cannot be written to standard output: No space left on device\n"


@pytest.mark.parametrize("command", ["settings", "settings --json", "--help"])
def test_a_closed_pipe_is_one_error_line(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = ipt(*command.split(), stdout=writing)
    finally:
        os.close(writing)
    assert result.returncode == 1
    assert result.stderr == "error: the result cannot be written to standard output: Broken pipe\n"


def test_characters_outside_the_encoding_are_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "IPT_DATA_DIR": "f\u00fcr \U0001f600", "PYTHONUTF8": "1"}
    result = ipt("settings", env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert r"f\xfcr \U0001f600" in result.stdout
    as_json = ipt("settings", "--json", env=environment)
    assert json.loads(as_json.stdout)["IPT_DATA_DIR"] == "f\u00fcr \U0001f600"


@pytest.mark.parametrize("module", ["app.cli.root", "typer", "httpx"])
def test_ctrl_c_during_imports_exits_quietly(module: str) -> None:
    interrupt = f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""
    result = ipt("tasks", before=interrupt)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
