"""Real worker processes: their environment, their children, and waiting for what they do."""

import os
import time
from collections.abc import Callable
from typing import Any

import psutil

from app.settings import Settings

ENDLESS = {"steps": 10_000, "batch_size": 8, "learning_rate": 0.0001}
SHORT = {"steps": 8, "batch_size": 8}


def until(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait until the condition is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:.0f} s"
        time.sleep(0.02)
    return value


def environment(settings: Settings, **changes: Any) -> dict[str, str]:
    """Return the environment variables for a process with these settings."""
    values = settings.model_copy(update=changes).model_dump(mode="json", exclude_none=True)
    variables = {f"IPT_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **variables, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def children(pid: int) -> list[psutil.Process]:
    """Return all descendants of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
