"""Progress of long work: a live bar on a terminal, occasional lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINES_WITHOUT_TERMINAL = 5
_SECONDS_WITHOUT_LINE = 60.0


class Update(Protocol):
    """Reports progress: the stage, steps done, total steps (0 if unknown), details, and whether the work is over."""

    def __call__(self, what: str, done: int, total: int, detail: str = "", *, over: bool = False) -> None: ...


@contextmanager
def progress(console: Console) -> Iterator[Update]:
    """Yield a function that reports progress on the console."""
    if console.is_terminal:
        with _live(console) as update:
            yield update
    else:
        yield _Lines(console)


@contextmanager
def adaptation_progress(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that reports the progress of an adaptation, given in the format of the API."""
    with progress(console) as update:
        yield lambda adaptation: update(
            "waiting for a worker" if adaptation["state"] == "queued" else _describe(adaptation),
            int(adaptation["progress"]["step"]),
            int(adaptation["progress"]["steps"]),
            over=adaptation["state"] == "succeeded",
        )


def _describe(adaptation: dict[str, Any]) -> str:
    return "tuning" if adaptation["state"] == "running" else str(adaptation["state"])


@contextmanager
def _live(console: Console) -> Iterator[Update]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None)

        def update(what: str, done: int, total: int, detail: str = "", *, over: bool = False) -> None:
            # Early stopping completes the bar as well.
            bar.update(task, description=what + detail, completed=done, total=done if over else total or None)

        yield update


class _Lines:
    """Prints a line when the state changes, after every fifth of the steps, and once a minute."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: tuple[str, int] | None = None
        self._printed_at = 0.0

    def __call__(self, what: str, done: int, total: int, detail: str = "", *, over: bool = False) -> None:  # noqa: ARG002
        part = done * _LINES_WITHOUT_TERMINAL // total if total else 0
        now = time.monotonic()
        if (what, part) != self._shown or now - self._printed_at >= _SECONDS_WITHOUT_LINE:
            self._shown = (what, part)
            self._printed_at = now
            where = f": step {done} of {total}" if total and done else ""
            self._console.print(f"  {what}{where}{detail}")
