"""Output of all commands: results on stdout, progress and errors on stderr, an error in one line."""

import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 100
"""Width in columns where the output is not a terminal."""


class CliError(Exception):
    """Ends the command with exit code 1; the user sees only the message."""


class _Stdout(io.TextIOWrapper):
    """Standard output that raises `CliError` once for a full disk or a closed pipe."""

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
        # Discard the buffered rest; otherwise the interpreter would flush it on exit and print a traceback.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return CliError(f"the result cannot be written to standard output: {error.strerror}")


def take_over_stdout() -> None:
    """Report failures of standard output in one line, and escape characters that its encoding lacks."""
    stdout = sys.stdout
    if not isinstance(stdout, io.TextIOWrapper):  # closed before the command began
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
    """Return the console for a command's result."""
    return _console(stderr=False)


def notices() -> Console:
    """Return the console for progress and remarks, which must not mix with a piped result."""
    return _console(stderr=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    escaped = not sys.stdout.encoding.lower().startswith("utf")  # with JSON escapes, not Python ones
    sys.stdout.write(json.dumps(document, ensure_ascii=escaped, indent=2, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    """Print the error line of a failed command on stderr."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")


def program() -> str:
    """Return the command line that runs this program again, for commands that a message suggests."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py" and script.parent.name == "cli" and "-m" in sys.orig_argv:
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        return f"{shlex.quote(sys.orig_argv[0])} -m {module}"
    ipt_on_path = shutil.which("ipt")
    on_path = ipt_on_path is not None and Path(ipt_on_path).resolve() == script.resolve()
    if script.name not in ("ipt", "ipt.exe") or on_path:
        return "ipt"
    return shlex.quote(sys.argv[0])


def check_folder(folder: Path) -> None:
    """Check before a long command that a folder can be created or written to.

    Raises:
        CliError: it cannot.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise CliError(f"{existing} is not a folder: choose another OUTPUT")
    if not os.access(existing, os.W_OK):
        raise CliError(f"{existing} is not writable: choose another OUTPUT")


def check_file(path: Path, suffix: str) -> None:
    """Check before a long command that a file, which may exist, can be written.

    Raises:
        CliError: its name does not end in `suffix`, or it cannot be written.
    """
    if path.suffix != suffix:
        raise CliError(f"OUTPUT must be a file name that ends in {suffix}, got {path}")
    if path.is_dir():
        raise CliError(f"{path} is a folder: OUTPUT must be a file name")
    check_folder(path.parent)


def score_table() -> Table:
    """Return an empty table for scores: a name, the score, and what it means."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    return table


def score(value: Any) -> str:
    """Format a score between 0 and 1 as a percentage, or a missing score as a dash."""
    return f"{value:.1%}" if isinstance(value, int | float) else "–"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def print_notes(notes: Sequence[str]) -> None:
    """Print each note on a line of its own to stderr."""
    for note in notes:
        notices().print(note, soft_wrap=True, highlight=False, markup=False)
