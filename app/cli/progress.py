"""Show an adaptation as it runs: a live bar on a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Update = Callable[[str, int, int], None]
"""Called with what is going on, steps done, steps in all (0: not known yet)."""

_LINES_WITHOUT_TERMINAL = 5


@contextmanager
def progress(console: Console) -> Iterator[Update]:
    """Yield the function to report progress to."""
    if console.is_terminal:
        with _live(console) as update:
            yield update
    else:
        yield _Lines(console)


@contextmanager
def adaptation_progress(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that takes the adaptation as the API shows it."""
    with progress(console) as update:
        yield lambda adaptation: update(
            "waiting for a worker" if adaptation["state"] == "queued" else _describe(adaptation),
            int(adaptation["progress"]["step"]),
            int(adaptation["progress"]["steps"]),
        )


def _describe(adaptation: dict[str, Any]) -> str:
    return "tuning" if adaptation["state"] == "running" else str(adaptation["state"])


@contextmanager
def _live(console: Console) -> Iterator[Update]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None)

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield update


class _Lines:
    """Prints a line when the state changes, and every fifth part of the way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: tuple[str, int] | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        part = done * _LINES_WITHOUT_TERMINAL // total if total else 0
        if (what, part) != self._shown:
            self._shown = (what, part)
            self._console.print(f"  {what}" + (f": step {done} of {total}" if total and done else ""))
