"""Real worker processes: their environment, and waiting for what they do."""

import os
import time
from collections.abc import Callable
from typing import Any

import psutil

from app.db.models import Adaptation, AdaptationEvent
from app.settings import Settings

Row = Callable[[str], Adaptation]


Events = Callable[[str], list[AdaptationEvent]]


ENDLESS = {"steps": 10_000, "batch_size": 8, "learning_rate": 0.0001}


SHORT = {"steps": 8, "batch_size": 8}


def until(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait for something to become true, and give it back."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "what the test waits for does not happen"
        time.sleep(0.02)
    return value


def environment(settings: Settings, **changes: Any) -> dict[str, str]:
    """What a process needs to work with these settings."""
    values = settings.model_copy(update=changes).model_dump(mode="json", exclude_none=True)
    variables = {f"IPT_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **variables, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
