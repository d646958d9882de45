"""What every command prints with: results on stdout, progress and errors on stderr, and errors in one line."""

import io
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

PLAIN_WIDTH = 100
"""Columns where there is no terminal to ask."""


class CliError(Exception):
    """Ends the command with exit code 1; the message is all that the user sees."""


class _Stdout(io.TextIOWrapper):
    """Standard output on which a full disk or a closed pipe is a `CliError`, once."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> CliError:
        # What is held back goes nowhere; else the interpreter would try once more as it ends, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return CliError(f"the result cannot be written to standard output: {error.strerror}")


def take_over_stdout() -> None:
    """Make failures of standard output errors in one line, and show what its encoding does not have as escapes."""
    stdout = sys.stdout
    if not isinstance(stdout, io.TextIOWrapper):  # it was closed before the command began
        sys.stdout = io.StringIO()
        return
    sys.stdout = _Stdout(
        stdout.buffer,
        encoding=stdout.encoding,
        errors="backslashreplace",
        line_buffering=stdout.line_buffering,
        write_through=stdout.write_through,
    )


def results() -> Console:
    """Where a command's result goes."""
    return _console(stderr=False)


def notices() -> Console:
    """Where progress and remarks go, so that they never mix with a result that is piped on."""
    return _console(stderr=True)


def print_json(document: Any) -> None:
    """One JSON document, and nothing else, on stdout."""
    escaped = not sys.stdout.encoding.lower().startswith("utf")  # as JSON does it, not as Python does
    sys.stdout.write(json.dumps(document, ensure_ascii=escaped, indent=2, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    """The one line that a failed command leaves on stderr."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")


def program() -> str:
    """Return the command line that runs this program again, for commands that a message suggests."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py" and "-m" in sys.orig_argv:
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        return f"{shlex.quote(sys.orig_argv[0])} -m {module}"
    ipt_on_path = shutil.which("ipt")
    on_path = ipt_on_path is not None and Path(ipt_on_path).resolve() == script.resolve()
    if script.name not in ("ipt", "ipt.exe") or on_path:
        return "ipt"
    return shlex.quote(sys.argv[0])


def check_folder(folder: Path) -> None:
    """Look whether a folder can be made, or written to, before a long command's work and not after it.

    Raises:
        CliError: it cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise CliError(f"{there} is no folder: choose another OUTPUT")
    if not os.access(there, os.W_OK):
        raise CliError(f"nothing can be written in {there}: choose another OUTPUT")


def check_file(path: Path, suffix: str) -> None:
    """Make sure of the same for a file; it may be there.

    Raises:
        CliError: its name does not end in `suffix`, or it cannot be written.
    """
    if path.suffix != suffix:
        raise CliError(f"OUTPUT must be the name of a file that ends in {suffix}, got {path}")
    if path.is_dir():
        raise CliError(f"{path} is a folder: choose the name of a file as OUTPUT")
    check_folder(path.parent)


def score(value: Any) -> str:
    """A score between 0 and 1 as people read it; a dash where there is none."""
    return f"{value:.1%}" if isinstance(value, int | float) else "–"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)
