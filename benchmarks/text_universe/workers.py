"""A pool of single-threaded processes that share one backbone folder and one progress bar.

For models this small, two processes are faster than two threads.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import ipt
from ipt.backbones.loading import load_in_dedicated_process

SECONDS_BETWEEN_UPDATES = 1.0


@dataclass(frozen=True)
class Job:
    """A call of `function(backbone, *arguments, on_step=…)`, which reports `steps` steps."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    steps: int


class Workers:
    """A pool of processes, used as a context manager."""

    def __init__(self, processes: int, backbone: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._backbone = backbone
        self._steps: Synchronized[int] = context.Value("q", 0)
        self._pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(self._steps,))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, title: str, jobs: Sequence[Job]) -> Iterator[Any]:
        """Yield the results of the jobs in the order of completion."""
        with self._steps.get_lock():
            self._steps.value = 0
        waiting: set[Future[Any]] = {self._pool.submit(_run, job, self._backbone) for job in jobs}
        with progress_bar() as bar:
            row = bar.add_task(title, total=sum(job.steps for job in jobs))
            while waiting:
                done, waiting = wait(waiting, SECONDS_BETWEEN_UPDATES, FIRST_COMPLETED)
                bar.update(row, completed=self._steps.value)
                for future in done:
                    yield future.result()
            bar.update(row, completed=self._steps.value)


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )


_steps: Synchronized[int] | None = None


def _start(steps: Synchronized[int]) -> None:
    global _steps  # noqa: PLW0603 - a process pool initializer can pass state only through a global
    _steps = steps
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent is killed; otherwise its workers would keep running next to those of the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _count(steps: int) -> None:
    assert _steps is not None
    with _steps.get_lock():
        _steps.value += steps


def _run(job: Job, backbone: Path) -> Any:
    return job.function(_loaded(backbone), *job.arguments, on_step=_count)


@cache
def _loaded(folder: Path) -> ipt.Backbone:
    return load_in_dedicated_process(str(folder), None, "cpu")
